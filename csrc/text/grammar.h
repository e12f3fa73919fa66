#pragma once

#include "llama.h"

#include <string>

namespace kvf {

// Refuses text that is no grammar, and grammars that would take llama.cpp all of the stack, the memory or the time: groups
// nested without measure, rules that begin with one another or with themselves, repetitions of long parts.
// Throws Error(KVF_ERROR_INVALID).
void check_grammar(const llama_vocab * vocab, const std::string & grammar);

} // namespace kvf
