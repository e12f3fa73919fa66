#include "chat/left_out.h"

#include "json.h"

namespace kvf {

namespace {

bool is_blank(const std::string & text) {
    return text.find_first_not_of(" \t\r\n") == std::string::npos;
}

} // namespace

// Puts a word that is nowhere else in the place of a text, unless that is blank, and keeps the word, to look for it in the
// prompt. form: what the text becomes; % stands for the word. The arguments of a call, for instance, must stay JSON.
void LeftOutTexts::replace(std::string & text, size_t index, const char * part, const std::string & form) {
    if (is_blank(text)) {
        shape_ += '-';
        return;
    }
    const std::string word = "kvfork_text_" + std::to_string(texts_.size()) + "_";
    texts_.push_back({ { index, part }, word });
    text = form;
    text.replace(form.find('%'), 1, word);
    shape_ += '+';
}

LeftOutTexts::LeftOutTexts(const common_chat_templates_inputs & inputs) : inputs_(inputs) {
    inputs_.json_schema.clear();
    for (size_t i = 0; i < inputs_.messages.size(); ++i) {
        common_chat_msg & message = inputs_.messages[i];
        shape_ += "\n" + message.role + " ";
        replace(message.content, i, "content");
        for (common_chat_msg_content_part & part : message.content_parts) {
            replace(part.text, i, "content");
        }
        replace(message.reasoning_content, i, "reasoning_content");
        replace(message.tool_name, i, "name");
        for (common_chat_tool_call & call : message.tool_calls) {
            replace(call.name, i, "tool_calls");
            if (call.arguments.find_first_not_of(" \t\r\n{}") != std::string::npos) {
                replace(call.arguments, i, "tool_calls", "{\"text\": \"%\"}");
            }
        }
    }
    for (size_t i = 0; i < inputs_.tools.size(); ++i) {
        shape_ += "\ntool ";
        replace(inputs_.tools[i].name, i, "tool");
    }
    for (const auto & [name, value] : inputs_.chat_template_kwargs) {
        shape_ += "\n" + name + "=" + value;
    }
    shape_ += "\n" + std::to_string(inputs_.tool_choice) + (inputs_.enable_thinking ? "thinking" : "") +
              (inputs_.parallel_tool_calls ? "parallel" : "");
}

std::vector<LeftOut> LeftOutTexts::find(const common_chat_templates * templates) const {
    std::vector<LeftOut> result;
    const std::string    prompt = common_chat_templates_apply(templates, inputs_).prompt;
    for (const Text & text : texts_) {
        const bool is_new =
            result.empty() || result.back().index != text.what.index || result.back().part != text.what.part;
        if (is_new && prompt.find(text.word) == std::string::npos) {
            result.push_back(text.what);
        }
    }
    return result;
}

} // namespace kvf
