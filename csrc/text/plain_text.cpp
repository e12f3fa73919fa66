#include "text/plain_text.h"

#include "engine/error.h"

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
            lengths_.insert(text.size());
            starts_.insert(text[0]);
        }
    }
}

bool PlainText::begins(const std::string & text, size_t offset) const {
    return std::any_of(lengths_.begin(), lengths_.end(), [&](size_t length) {
        return offset + length <= text.size() && texts_.count(text.substr(offset, length)) > 0;
    });
}

// Returns how long the character at an offset is, if it is to be marked; 0 if not.
size_t PlainText::first_character(const std::string & text, size_t offset) const {
    if (!starts_.count(text[offset])) {
        return 0;
    }
    if (is_rare(text[offset])) {
        return 1; // wherever it is: what follows it may be what a template makes of the text
    }
    return begins(text, offset) ? common_utf8_sequence_length(static_cast<unsigned char>(text[offset])) : 0;
}

std::string PlainText::free_mark(const std::string & request) const {
    // ASCII, which no filter escapes; then those that Unicode leaves to private use
    std::vector<uint32_t> candidates = { 0x7f };
    for (uint32_t codepoint = 0xe000; codepoint < 0xf900; ++codepoint) {
        candidates.push_back(codepoint);
    }
    for (const uint32_t codepoint : candidates) {
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
    for (size_t i = 0; i < text.size();) {
        const size_t n = first_character(text, i);
        result.append(text, i, std::max<size_t>(n, 1));
        result += n ? mark : "";
        i += std::max<size_t>(n, 1);
    }
    return result;
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

bool PlainText::mark(common_chat_templates_inputs & inputs, const std::string & mark) const {
    bool       found = false;
    const auto text  = [&](std::string & value) {
        std::string result = marked(value, mark);
        found              = found || result.size() > value.size();
        value              = std::move(result);
    };
    const auto json = [&](std::string & value) {
        std::string result = marked_json(value, mark);
        found              = found || result.size() > value.size();
        value              = std::move(result);
    };
    for (common_chat_msg & message : inputs.messages) {
        text(message.role);
        text(message.content);
        for (common_chat_msg_content_part & part : message.content_parts) {
            text(part.text);
        }
        text(message.reasoning_content);
        text(message.tool_name);
        text(message.tool_call_id);
        for (common_chat_tool_call & call : message.tool_calls) {
            text(call.name);
            text(call.id);
            json(call.arguments);
        }
    }
    for (common_chat_tool & tool : inputs.tools) {
        text(tool.name);
        text(tool.description);
        json(tool.parameters);
    }
    for (auto & [name, value] : inputs.chat_template_kwargs) {
        json(value);
    }
    json(inputs.json_schema);
    return found;
}

std::vector<uint64_t> PlainText::unmark(std::string & prompt, const std::string & mark) const {
    std::string         result;
    std::vector<size_t> ends; // of characters with a mark
    const auto          codepoint = common_parse_utf8_codepoint(mark, 0).codepoint;
    const std::string   escape    = "\\" + escape_of(codepoint); // as a template may have written it
    for (size_t i = 0; i < prompt.size();) {
        const size_t n = prompt.compare(i, mark.size(), mark) == 0       ? mark.size()
                         : prompt.compare(i, escape.size(), escape) == 0 ? escape.size()
                                                                         : 0;
        if (n) {
            ends.push_back(result.size());
            i += n;
        } else {
            result += prompt[i++];
        }
    }
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
