#pragma once

#include "llama.h"

#include <cstdint>
#include <vector>

namespace kvf {

// The candidates for a top-k selection, in ascending order of their ids: all tokens of a row of logits that are among its k
// greatest, and some more, but few of a large vocabulary. Empty where nobody can tell which k tokens these are, or in which
// order, so that it depends on how they are sorted: some of them are equal, infinite or not a number.
//
// The row is cut into blocks. As many blocks as there are tokens to find have a token that is as great as the k-th greatest
// of all blocks' greatest tokens; whatever is less is not among the k.
std::vector<llama_token_data> shortlist(const float * row, int32_t n, int32_t k);

} // namespace kvf
