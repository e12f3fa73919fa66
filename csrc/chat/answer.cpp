#include "chat/answer.h"

#include "text/nesting.h"

#include "chat-peg-parser.h"
#include "json.h"

#include <new>
#include <random>
#include <variant>

namespace kvf {

namespace {

// nine letters or digits: the form that Mistral's templates insist on, and no other one minds
std::string random_call_id() {
    static const char                     alphabet[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    std::random_device                    random;
    std::uniform_int_distribution<size_t> letter(0, sizeof(alphabet) - 2);
    std::string                           id;
    for (int i = 0; i < 9; ++i) {
        id += alphabet[letter(random)];
    }
    return id;
}

// A space that was sent may turn out not to belong to the text, once a call follows it.
void keep_what_was_sent(const common_chat_msg & sent, common_chat_msg & message) {
    for (std::string common_chat_msg::* text : { &common_chat_msg::content, &common_chat_msg::reasoning_content }) {
        if (string_starts_with(sent.*text, message.*text)) {
            message.*text = sent.*text;
        }
    }
}

// Whether a parser takes every text as it is: the end of the prompt, then content up to the end.
bool takes_all_as_content(const common_peg_arena & parser, const std::string & generation_prompt) {
    std::string literals;
    int         n_contents = 0;
    for (common_peg_parser_id id = 0; id < parser.size(); ++id) {
        const common_peg_parser_variant & node = parser.get(id);
        if (const auto * literal = std::get_if<common_peg_literal_parser>(&node)) {
            literals += literal->literal;
        } else if (const auto * tag = std::get_if<common_peg_tag_parser>(&node)) {
            const auto * until = std::get_if<common_peg_until_parser>(&parser.get(tag->child));
            if (tag->tag != common_chat_peg_builder::CONTENT || !until || !until->delimiters.empty()) {
                return false;
            }
            ++n_contents;
        } else if (!std::holds_alternative<common_peg_until_parser>(node) &&
                   !std::holds_alternative<common_peg_sequence_parser>(node) &&
                   !std::holds_alternative<common_peg_epsilon_parser>(node) &&
                   !std::holds_alternative<common_peg_end_parser>(node)) {
            return false;
        }
    }
    return n_contents == 1 && literals == generation_prompt;
}

} // namespace

Answer::Answer(const AnswerFormat & format) {
    parser_.format            = format.parser_kind;
    parser_.generation_prompt = format.generation_prompt;
    parser_.reasoning_format  = COMMON_REASONING_FORMAT_DEEPSEEK;
    if (!format.parser.empty()) {
        parser_.parser.load(format.parser);
    }
    is_plain_ = takes_all_as_content(parser_.parser, format.generation_prompt);
}

std::string Answer::push(const std::string & text, bool is_last) {
    common_json delta = common_json::object();
    if (is_plain_) { // a parser would read all of it again for every token
        if (!text.empty()) {
            delta["content"] = text;
        }
        return delta.dump();
    }

    text_ += text;
    const bool is_read = read(is_last, delta);
    if (is_last && message_.empty() && !text_.empty()) {
        delta["content"] = text_;
    } else if (is_last && !is_read) {
        delta["unread"] = true;
    }
    return delta.dump();
}

// False if the text does not have the format; what was read of it stays.
bool Answer::read(bool is_last, common_json & delta) {
    if (answer_depth(text_) > MAX_JSON_DEPTH) {
        return false;
    }
    common_chat_msg                   message;
    std::vector<common_chat_msg_diff> diffs;
    try {
        message = common_chat_parse(text_, /* is_partial = */ !is_last, parser_);
        // a name is still growing until its arguments begin
        if (!is_last && !message.tool_calls.empty() && message.tool_calls.back().arguments.empty()) {
            message.tool_calls.pop_back();
        }
        message.set_tool_call_ids(call_ids_, random_call_id);
        keep_what_was_sent(message_, message);
        diffs = common_chat_msg_diff::compute_diffs(message_, message);
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception &) {
        return false;
    }

    for (const common_chat_msg_diff & diff : diffs) {
        if (!diff.reasoning_content_delta.empty()) {
            delta["reasoning_content"] = diff.reasoning_content_delta;
        }
        if (!diff.content_delta.empty()) {
            delta["content"] = diff.content_delta;
        }
        if (diff.tool_call_index != std::string::npos) {
            common_json call  = common_json::object();
            call["index"]     = diff.tool_call_index;
            call["arguments"] = diff.tool_call_delta.arguments;
            if (diff.tool_call_index >= message_.tool_calls.size()) {
                call["id"]   = diff.tool_call_delta.id;
                call["name"] = diff.tool_call_delta.name;
            }
            if (!delta.contains("tool_calls")) {
                delta["tool_calls"] = common_json::array();
            }
            delta["tool_calls"].push_back(call);
        }
    }
    message_ = message;
    return true;
}

} // namespace kvf
