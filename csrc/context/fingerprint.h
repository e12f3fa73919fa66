#pragma once

#include "llama.h"

#include <string>

namespace kvf {

// All that the numbers in a context's memory depend on, but the tokens: JSON, an object that people can read. Contexts that
// agree in it compute the same for the same tokens, like for like.
// weights: what the model and its adapter are, in words that the caller gives to no other.
std::string fingerprint(llama_context *              ctx,
                        const llama_context_params & params,
                        bool                         batch_invariant,
                        const std::string &          weights);

// The part of it that is the same for all contexts of this build on a machine like this one.
std::string build_fingerprint();

} // namespace kvf
