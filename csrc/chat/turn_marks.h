#pragma once

#include "chat.h"

#include <string>
#include <vector>

namespace kvf {

// What a template writes between an answer and the next message, if none of it is a special token of the vocabulary: a model
// that goes on as it has learned then writes these marks as text, and nothing else ends its answer.
std::vector<std::string> turn_marks_in_text(const llama_vocab * vocab, const common_chat_templates * templates);

} // namespace kvf
