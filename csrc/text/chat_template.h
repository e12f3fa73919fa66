#pragma once

#include "text/plain_text.h"

#include "chat.h"

#include <optional>
#include <string>

namespace kvf {

// A model's chat template, rendered by llama-common. Rendering is const and may happen on many threads at once.
class ChatTemplate {
  public:
    // source: Jinja that replaces the model's own template, or "chatml"; nullptr: the model's own
    ChatTemplate(const llama_model * model, const char * source);

    // request and result are JSON, as kvf_chat_render() says; throws Error(KVF_ERROR_INVALID)
    std::string render(const std::string & request) const;

    // JSON, as kvf_chat_capabilities() says
    std::string capabilities() const;

  private:
    const common_chat_templates * for_request(const common_chat_templates_inputs & inputs) const;

    common_chat_templates_ptr templates_;
    common_chat_templates_ptr with_tools_; // if the template itself knows no tools: with the prelude in front
    std::optional<PlainText>  plain_text_; // if there is a vocabulary
};

} // namespace kvf
