#include "chat/turn_marks.h"

#include "common.h"

#include <algorithm>
#include <new>
#include <regex>

namespace kvf {

std::vector<std::string> turn_marks_in_text(const llama_vocab * vocab, const common_chat_templates * templates) {
    const std::string            answer = "kvfork_answer", question = "kvfork_question";
    common_chat_templates_inputs inputs;
    for (const auto & [role, text] :
         { std::pair{ "user", std::string("?") }, { "assistant", answer }, { "user", question } }) {
        common_chat_msg message;
        message.role    = role;
        message.content = text;
        inputs.messages.push_back(message);
    }
    std::string prompt;
    try {
        prompt = common_chat_templates_apply(templates, inputs).prompt;
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception &) {
        return {}; // a template that refuses these messages is not known well enough
    }
    const size_t begin = prompt.find(answer);
    const size_t end   = prompt.find(question);
    if (begin == std::string::npos || end == std::string::npos || begin > end) {
        return {};
    }
    const std::string  between = prompt.substr(begin + answer.size(), end - begin - answer.size());
    const llama_tokens tokens  = common_tokenize(vocab, between, /* add_special = */ false, /* parse_special = */ true);
    const bool         special = std::any_of(tokens.begin(), tokens.end(), [&](llama_token token) {
        const int attr = llama_vocab_get_attr(vocab, token);
        return (attr & (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_USER_DEFINED)) &&
               between.find(llama_vocab_get_text(vocab, token)) != std::string::npos;
    });
    const size_t       last    = between.find_last_not_of(" \t\r\n");
    if (special || last == std::string::npos) {
        return {};
    }
    static const std::regex  bracketed(R"(<[^<>\s]+>|\[/?[A-Z_]+\])");
    std::vector<std::string> marks;
    for (auto it = std::sregex_iterator(between.begin(), between.end(), bracketed); it != std::sregex_iterator();
         ++it) {
        if (std::find(marks.begin(), marks.end(), it->str()) == marks.end()) {
            marks.push_back(it->str());
        }
    }
    if (marks.empty()) {
        marks.push_back(between.substr(0, last + 1));
    }
    return marks;
}

} // namespace kvf
