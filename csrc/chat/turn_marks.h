#pragma once

#include "chat.h"

#include <string>
#include <vector>

namespace kvf {

// Returns the marks that a template writes between an answer and the next message, if none of them is a special token of the
// vocabulary. Such a model does not end its answer with a token, but goes on with the marks, as text: they have to be stop
// strings. Empty if a special token is among them, which ends the answer.
std::vector<std::string> turn_marks_in_text(const llama_vocab * vocab, const common_chat_templates * templates);

} // namespace kvf
