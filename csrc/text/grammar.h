#pragma once

#include "llama.h"

#include <string>

namespace kvf {

// Refuses what is no grammar, and what llama.cpp would take all of the stack, the memory or the time for: groups nested
// without measure, rules that begin with one another or with themselves, repetitions of what is long.
// Throws Error(KVF_ERROR_INVALID).
void check_grammar(const llama_vocab * vocab, const std::string & grammar);

} // namespace kvf
