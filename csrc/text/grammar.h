#pragma once

#include "llama.h"

#include <string>

namespace kvf {

// Refuses text that is no grammar, and grammars that would take llama.cpp all of the stack, the memory or the time: groups
// nested without measure, rules that begin with one another or with themselves, repetitions of long parts.
// llama.cpp counts up to 2,000 repetitions, and takes more at most ({1,5000}) as any number. is_exact: that is refused, too;
// of a grammar that comes from a schema it is not, since the answer is checked when it is there.
// Throws Error(KVF_ERROR_INVALID).
void check_grammar(const llama_vocab * vocab, const std::string & grammar, bool is_exact);

} // namespace kvf
