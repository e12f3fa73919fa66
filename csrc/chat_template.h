#pragma once

#include "chat.h"

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
    common_chat_templates_ptr templates_;
};

} // namespace kvf
