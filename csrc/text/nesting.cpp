#include "text/nesting.h"

#include "kvf_error.h"

#include "jinja/lexer.h"

#include <algorithm>
#include <map>
#include <set>

namespace kvf {

namespace {

// of a chat template: brackets and blocks inside of one another, and tokens of one expression, whose operators llama.cpp
// nests one by one. Of the templates that llama.cpp has, none goes beyond 4, 25 and 60.
constexpr size_t MAX_TEMPLATE_DEPTH      = 64;
constexpr size_t MAX_TEMPLATE_EXPRESSION = 512;

// levels of a schema, of which each definition that it refers to counts as two; llama.cpp goes down one for each property
// that may be left out
constexpr size_t MAX_SCHEMA_DEPTH = 1024;
constexpr size_t N_LEVELS_OF_REF  = 2;

void check_json_depth(const char * name, const std::string & text) {
    const size_t depth = json_depth(text);
    if (depth > MAX_JSON_DEPTH) {
        throw Error(KVF_ERROR_INVALID, std::string(name) + ": is JSON nested " + std::to_string(depth) +
                                           " levels deep; pass " + std::to_string(MAX_JSON_DEPTH) + " or less");
    }
}

// calls back with each element of an array that an object has under this name, if it has one
template <typename Visit>
void for_each(const common_json & object, const char * name, Visit && visit) {
    if (object.is_object() && object.contains(name) && object.at(name).is_array()) {
        for (const common_json & element : object.at(name)) {
            visit(element);
        }
    }
}

[[noreturn]] void refuse_template(const char * what, size_t most) {
    throw Error(KVF_ERROR_INVALID, std::string("chat_template: has ") + what + ", more than " + std::to_string(most) +
                                       "; write it with fewer");
}

// A schema's levels. What was measured once is not measured again, and a definition that comes back to itself ends there.
class SchemaDepth {
  public:
    SchemaDepth(const common_json & root, size_t limit) : root_(root), limit_(limit) {}

    size_t measure(const common_json & value, size_t n_above) {
        if (n_above > limit_ || (!value.is_object() && !value.is_array())) {
            return 1;
        }
        const auto known = depths_.find(&value);
        if (known != depths_.end()) {
            return known->second;
        }
        if (!under_way_.insert(&value).second) {
            return 0;
        }
        const bool   is_schema = value.is_object();
        const size_t n_own     = 1 + (is_schema ? n_properties(value) : 0);
        size_t       n_below   = 0;
        for (const auto & [name, part] : value.items()) {
            n_below = std::max(n_below, measure(part, n_above + n_own));
            if (is_schema && name == "$ref" && part.is_string()) {
                const common_json * target = find(part.get<std::string>());
                if (target) {
                    n_below = std::max(n_below, N_LEVELS_OF_REF + measure(*target, n_above + n_own + N_LEVELS_OF_REF));
                }
            }
        }
        under_way_.erase(&value);
        return depths_[&value] = std::min(n_own + n_below, limit_ + 1);
    }

  private:
    static size_t n_properties(const common_json & schema) {
        return schema.contains("properties") && schema.at("properties").is_object() ? schema.at("properties").size()
                                                                                    : 0;
    }

    // what a reference within the schema points to, nullptr if nothing
    const common_json * find(const std::string & ref) const {
        const size_t hash = ref.find('#');
        if (hash == std::string::npos) {
            return nullptr;
        }
        const common_json * at = &root_;
        for (size_t from = hash + 1; from < ref.size();) { // "/name/name"
            const size_t      to   = std::min(ref.find('/', from + 1), ref.size());
            const std::string name = ref.substr(from + 1, to - from - 1);
            if (!at->is_object() || !at->contains(name)) {
                return nullptr;
            }
            at   = &at->at(name);
            from = to;
        }
        return at;
    }

    const common_json &                   root_;
    size_t                                limit_;
    std::map<const common_json *, size_t> depths_;
    std::set<const common_json *>         under_way_;
};

void check_schema(const char * name, const common_json & schema) {
    if (SchemaDepth(schema, MAX_SCHEMA_DEPTH).measure(schema, 0) > MAX_SCHEMA_DEPTH) {
        throw Error(KVF_ERROR_INVALID, std::string(name) +
                                           ": has a schema whose properties and definitions follow one "
                                           "another for more than " +
                                           std::to_string(MAX_SCHEMA_DEPTH) + " levels; make it flatter");
    }
}

} // namespace

size_t json_depth(const std::string & text) {
    size_t depth     = 0;
    size_t deepest   = 0;
    bool   in_string = false;
    for (size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (in_string) {
            i += c == '\\';
            in_string = c != '"';
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            deepest = std::max(deepest, ++depth);
        } else if ((c == ']' || c == '}') && depth > 0) {
            --depth;
        }
    }
    return deepest;
}

size_t answer_depth(const std::string & text) {
    // For each state that somebody who reads may be in, the most levels that may be open: JSON, or Python's way of writing
    // it, may begin anywhere, and a quote may begin a string or be an apostrophe.
    constexpr int NEVER     = -1;
    int           outside   = 0;
    int           string[2] = { NEVER, NEVER }; // in double quotes, in single ones
    int           escape[2] = { NEVER, NEVER }; // there, behind a backslash
    int           deepest   = 0;
    for (const char c : text) {
        int next = outside;
        if (c == '[' || c == '{') {
            ++next;
        } else if ((c == ']' || c == '}') && next > 0) {
            --next;
        }
        for (const int kind : { 0, 1 }) {
            const char quote = kind == 0 ? '"' : '\'';
            int        stays = std::max(escape[kind], c == quote || c == '\\' ? NEVER : string[kind]);
            escape[kind]     = c == '\\' ? string[kind] : NEVER;
            if (c == quote) {
                next  = std::max(next, string[kind]);
                stays = std::max(stays, outside);
            }
            string[kind] = stays;
        }
        outside = next;
        deepest = std::max(deepest, outside);
    }
    return static_cast<size_t>(deepest);
}

common_json parse_request(const std::string & text) {
    check_json_depth("the request", text);
    common_json request = common_json::parse(text);
    if (!request.is_object()) {
        return request;
    }
    if (request.contains("json_schema")) {
        check_schema("json_schema", request.at("json_schema"));
    }
    for_each(request, "tools", [](const common_json & tool) {
        if (tool.is_object() && tool.contains("function")) {
            check_schema("tools", tool.at("function"));
        }
    });
    for_each(request, "messages", [](const common_json & message) {
        for_each(message, "tool_calls", [](const common_json & call) {
            if (call.is_object() && call.contains("function") && call.at("function").is_object() &&
                call.at("function").contains("arguments") && call.at("function").at("arguments").is_string()) {
                check_json_depth("messages: tool_calls: arguments",
                                 call.at("function").at("arguments").get<std::string>());
            }
        });
    });
    return request;
}

void check_template_depth(const std::string & source) {
    using jinja::token;

    std::vector<token> tokens;
    try {
        tokens = jinja::lexer().tokenize(source).tokens;
    } catch (const std::exception &) {
        return; // llama.cpp will say what is wrong with it
    }
    static const std::set<std::string> opening = { "if", "elif", "for", "macro", "call", "filter", "set" };

    std::vector<size_t> blocks;       // for each that is open: how many ends it takes, as an elif has none of its own
    size_t              n_open   = 0; // blocks
    size_t              n_inside = 0; // brackets
    size_t              n_tokens = 0; // of this tag
    bool                in_tag   = false;
    for (size_t i = 0; i < tokens.size(); ++i) {
        const token & t = tokens[i];
        switch (t.t) {
            case token::open_statement:
            case token::open_expression:
                n_inside = n_tokens = 0;
                in_tag              = true;
                break;
            case token::close_statement:
            case token::close_expression:
                in_tag = false;
                break;
            case token::open_paren:
            case token::open_square_bracket:
            case token::open_curly_bracket:
                ++n_inside;
                break;
            case token::close_paren:
            case token::close_square_bracket:
            case token::close_curly_bracket:
                n_inside -= n_inside > 0;
                break;
            default:
                break;
        }
        n_tokens += in_tag;
        if (i > 0 && tokens[i - 1].t == token::open_statement) {
            if (t.value == "elif" && !blocks.empty()) {
                ++blocks.back();
                ++n_open;
            } else if (t.value.compare(0, 3, "end") == 0 && !blocks.empty()) {
                n_open -= blocks.back();
                blocks.pop_back();
            } else if (opening.count(t.value) && t.value != "elif") {
                // "set x = ..." has no end
                bool has_end = t.value != "set";
                for (size_t k = i; !has_end && k < tokens.size() && tokens[k].t != token::equals; ++k) {
                    has_end = tokens[k].t == token::close_statement;
                }
                if (has_end) {
                    blocks.push_back(1);
                    ++n_open;
                }
            }
        }
        if (n_inside > MAX_TEMPLATE_DEPTH) {
            refuse_template("brackets inside of one another", MAX_TEMPLATE_DEPTH);
        }
        if (n_open > MAX_TEMPLATE_DEPTH) {
            refuse_template("blocks inside of one another, or branches of an if", MAX_TEMPLATE_DEPTH);
        }
        if (n_tokens > MAX_TEMPLATE_EXPRESSION) {
            refuse_template("an expression of many words and signs", MAX_TEMPLATE_EXPRESSION);
        }
    }
}

} // namespace kvf
