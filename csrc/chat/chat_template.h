#pragma once

#include "chat/left_out.h"
#include "chat/plain_text.h"

#include "chat.h"

#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

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

    std::vector<LeftOut> left_out(const common_chat_templates *        templates,
                                  const common_chat_templates_inputs & inputs) const;

    common_chat_templates_ptr templates_;
    common_chat_templates_ptr with_tools_;     // for a template that shows no tools: with the prelude in front
    std::optional<PlainText>  plain_text_;     // always, once it is constructed
    std::string               thinking_start_; // "": no thoughts
    std::string               thinking_end_;
    std::vector<std::string>  turn_marks_; // that are text, as turn_marks_in_text() returns them

    // what was left out of earlier requests, by their shapes
    mutable std::mutex                                  left_out_mutex_;
    mutable std::map<std::string, std::vector<LeftOut>> left_out_;
};

} // namespace kvf
