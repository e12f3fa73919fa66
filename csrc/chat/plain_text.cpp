#include "chat/plain_text.h"

#include "kvf_error.h"

#include "json.h"
#include "unicode.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>

namespace kvf {

namespace {

// Vocabularies have tokens for these, but to a model they are text like any other.
const std::set<std::string> html_tags = {
    "a",      "b",   "blockquote", "br",    "caption", "code",  "div", "em",    "h1",  "h2", "h3",   "h4",
    "h5",     "h6",  "hr",         "i",     "img",     "li",    "ol",  "p",     "pre", "s",  "span", "sub",
    "strong", "sup", "table",      "tbody", "td",      "tfoot", "th",  "thead", "tr",  "u",  "ul",
};

bool is_html(const std::string & text) {
    const size_t start = text.compare(0, 2, "</") == 0 ? 2 : 1;
    return text.size() > start + 1 && html_tags.count(text.substr(start, text.size() - start - 1)) > 0;
}

// A user-defined token may be a mark, such as <think>, or text that is frequent, such as a run of spaces.
bool is_mark(const std::string & text, const std::string & source) {
    const char first = text.front(), last = text.back();
    const bool in_brackets = (first == '<' && last == '>') || (first == '[' && last == ']');
    return in_brackets && (!is_html(text) || source.find(text) != std::string::npos);
}

bool is_rare(char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte < 0x80 && !std::isalnum(byte) && !std::isspace(byte);
}

// how JSON may write a character, without the backslash
std::string escape_of(uint32_t codepoint) {
    char text[8];
    std::snprintf(text, sizeof text, "u%04x", static_cast<unsigned>(codepoint));
    return text;
}

bool has_escape(const std::string & json, std::string escape) {
    const bool lower = json.find(escape) != std::string::npos;
    std::transform(escape.begin() + 1, escape.end(), escape.begin() + 1,
                   [](unsigned char c) { return std::toupper(c); });
    return lower || json.find(escape) != std::string::npos;
}

} // namespace

PlainText::PlainText(const llama_vocab * vocab, const std::string & source) : source_(source) {
    for (llama_token token = 0; token < llama_vocab_n_tokens(vocab); ++token) {
        const int         attr = llama_vocab_get_attr(vocab, token);
        const std::string text = llama_vocab_get_text(vocab, token);
        if (text.empty()) {
            continue;
        }
        if (attr & (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN) ||
            (attr & LLAMA_TOKEN_ATTR_USER_DEFINED && is_mark(text, source))) {
            texts_.insert(text);
            lengths_[text.substr(0, 2)].insert(text.size());
            starts_[static_cast<unsigned char>(text[0])] = true;
        }
    }
}

bool PlainText::begins(const std::string & text, size_t offset) const {
    for (const size_t n : { 1, 2 }) {
        const auto lengths = lengths_.find(text.substr(offset, n));
        if (lengths != lengths_.end() &&
            std::any_of(lengths->second.begin(), lengths->second.end(),
                        [&](size_t length) { return texts_.count(text.substr(offset, length)) > 0; })) {
            return true;
        }
    }
    return false;
}

// Returns how long the character at an offset is, if it is to be marked; 0 if not.
size_t PlainText::first_character(const std::string & text, size_t offset) const {
    if (!starts_[static_cast<unsigned char>(text[offset])]) {
        return 0;
    }
    if (is_rare(text[offset])) {
        return 1; // wherever it is: what follows it may be what a template makes of the text
    }
    return begins(text, offset) ? common_utf8_sequence_length(static_cast<unsigned char>(text[offset])) : 0;
}

std::string PlainText::free_mark(const std::string & request) const {
    // an ASCII one, which no filter escapes; then those that Unicode leaves to private use
    for (uint32_t codepoint = 0x7f; codepoint < 0xf900; codepoint = std::max(codepoint + 1, 0xe000U)) {
        const std::string mark = common_unicode_cpt_to_utf8(codepoint);
        if (request.find(mark) == std::string::npos && source_.find(mark) == std::string::npos &&
            !has_escape(request, escape_of(codepoint))) {
            return mark;
        }
    }
    throw Error(KVF_ERROR_INVALID,
                "messages: have every character that Unicode leaves to private use (U+E000 to U+F8FF): "
                "leave one out");
}

std::string PlainText::marked(const std::string & text, const std::string & mark) const {
    std::string result;
    size_t      from = 0; // what is not copied yet
    for (size_t i = 0; i < text.size();) {
        const size_t n = first_character(text, i);
        i += std::max<size_t>(n, 1);
        if (n) {
            result.append(text, from, i - from).append(mark);
            from = i;
        }
    }
    return result.append(text, from, std::string::npos);
}

// In JSON, only what is in strings can become a text.
std::string PlainText::marked_json(const std::string & json, const std::string & mark) const {
    if (common_json::parse_no_throw(json).is_discarded()) {
        return marked(json, mark);
    }
    std::string result;
    bool        inside = false;
    for (size_t i = 0; i < json.size();) {
        size_t n = 1; // bytes of JSON
        size_t m = 0; // whether they are to be marked
        if (!inside) {
            inside = json[i] == '"';
        } else if (json[i] == '"') {
            inside = false;
        } else if (json[i] == '\\') {
            n = json[i + 1] == 'u' ? 6 : 2;
            if (n == 6) {
                const auto codepoint = static_cast<uint32_t>(std::strtoul(json.substr(i + 2, 4).c_str(), nullptr, 16));
                m = codepoint < 0x80 && first_character(std::string(1, static_cast<char>(codepoint)), 0);
            }
        } else {
            m = first_character(json, i);
            n = std::max<size_t>(m, 1);
        }
        result.append(json, i, n);
        result += m ? mark : "";
        i += n;
    }
    return result;
}

bool PlainText::mark_text(std::string & text, const std::string & mark) const {
    const size_t size = text.size();
    text              = marked(text, mark);
    return text.size() > size;
}

bool PlainText::mark_json(std::string & json, const std::string & mark) const {
    const size_t size = json.size();
    json              = marked_json(json, mark);
    return json.size() > size;
}

bool PlainText::mark_messages(common_chat_templates_inputs & inputs, const std::string & mark) const {
    bool found = false;
    for (common_chat_msg & message : inputs.messages) {
        for (std::string * text : { &message.role, &message.content, &message.reasoning_content, &message.tool_name,
                                    &message.tool_call_id }) {
            found |= mark_text(*text, mark);
        }
        for (common_chat_msg_content_part & part : message.content_parts) {
            found |= mark_text(part.text, mark);
        }
        for (common_chat_tool_call & call : message.tool_calls) {
            found |= mark_text(call.name, mark);
            found |= mark_text(call.id, mark);
            found |= mark_json(call.arguments, mark);
        }
    }
    for (auto & [name, value] : inputs.chat_template_kwargs) {
        found |= mark_json(value, mark);
    }
    return found;
}

bool PlainText::mark_schemas(common_chat_templates_inputs & inputs, const std::string & mark) const {
    bool found = mark_json(inputs.json_schema, mark);
    for (common_chat_tool & tool : inputs.tools) {
        found |= mark_text(tool.name, mark);
        found |= mark_text(tool.description, mark);
        found |= mark_json(tool.parameters, mark);
    }
    return found;
}

std::vector<uint64_t> PlainText::unmark(std::string & prompt, const std::string & mark) const {
    const auto codepoint = common_parse_utf8_codepoint(mark, 0).codepoint;
    string_replace_all(prompt, "\\" + escape_of(codepoint), mark); // as a template may have escaped it

    std::string         result;
    std::vector<size_t> ends; // of characters with a mark
    size_t              from = 0;
    for (size_t at = prompt.find(mark); at != std::string::npos; at = prompt.find(mark, from)) {
        result.append(prompt, from, at - from);
        ends.push_back(result.size());
        from = at + mark.size();
    }
    result.append(prompt, from, std::string::npos);
    prompt = std::move(result);

    std::vector<uint64_t> offsets;
    for (size_t end : ends) {
        while (end > 0 && (static_cast<unsigned char>(prompt[end - 1]) & 0xC0) == 0x80) {
            --end;
        }
        if (end > 0 && begins(prompt, end - 1) && (offsets.empty() || offsets.back() < end - 1)) {
            offsets.push_back(end - 1);
        }
    }
    return offsets;
}

} // namespace kvf
