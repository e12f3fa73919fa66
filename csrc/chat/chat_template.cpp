#include "chat/chat_template.h"

#include "chat/answer_format.h"
#include "chat/tool_prelude.h"
#include "chat/turn_marks.h"
#include "kvf_error.h"
#include "text/nesting.h"

#include "chat-peg-parser.h"
#include "jinja/limits.h"
#include "json-schema-to-grammar.h"
#include "json.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <new>
#include <tuple>

namespace kvf {

namespace {

// Bounds what templates take that this thread renders, for a request of so many bytes.
class TemplateLimits {
  public:
    explicit TemplateLimits(size_t n_bytes)
        : limits_(MAX_TEMPLATE_LEVELS,
                  MAX_TEMPLATE_WORK + TEMPLATE_WORK_PER_BYTE * n_bytes,
                  MAX_TEMPLATE_SIZE + TEMPLATE_SIZE_PER_BYTE * n_bytes) {}

    // Throws Error(KVF_ERROR_INVALID) if one took more than it may, std::bad_alloc if one took more than there is; llama.cpp
    // may have caught that, and gone on with something else.
    void check() const {
        if (limits_.has_no_memory()) {
            throw std::bad_alloc();
        }
        if (limits_.exceeded()) {
            throw Error(KVF_ERROR_INVALID, std::string("chat_template: runs into ") + limits_.exceeded() +
                                               ", or into more than any template for people needs; mend it, or give "
                                               "another chat_template");
        }
    }

  private:
    jinja::limits limits_;
};

common_chat_templates_inputs parse(const common_json & request) {
    common_chat_templates_inputs inputs;
    inputs.messages = common_chat_msgs_parse_oaicompat(request.at("messages"));
    if (request.contains("tools")) {
        inputs.tools = common_chat_tools_parse_oaicompat(request.at("tools"));
    }
    if (request.contains("tool_choice")) {
        inputs.tool_choice = common_chat_tool_choice_parse_oaicompat(request.at("tool_choice").get<std::string>());
    }
    if (request.contains("json_schema")) {
        inputs.json_schema = request.at("json_schema").dump();
    }
    if (request.contains("chat_template_kwargs")) {
        common_json kwargs = request.at("chat_template_kwargs");
        for (const auto & [key, value] : kwargs.items()) {
            inputs.chat_template_kwargs[key] = value.dump();
        }
    }
    inputs.add_generation_prompt = request.value("add_generation_prompt", true);
    inputs.enable_thinking       = request.value("enable_thinking", true);
    inputs.reasoning_format      = COMMON_REASONING_FORMAT_DEEPSEEK;
    return inputs;
}

// Gives a rule of a grammar another body. llama-common forgets what a grammar was built from, so its text it is.
void replace_rule(std::string & grammar, const std::string & name, const std::string & body) {
    const std::string head  = "\n" + name + " ::= ";
    const size_t      start = ("\n" + grammar).find(head);
    if (start != std::string::npos) {
        const size_t from = start + head.size() - 1;
        grammar.replace(from, grammar.find('\n', from) - from, body);
    }
}

// A call that is required has to come, but llama-common lets any text precede it. This leaves the model its thoughts and
// the call.
void forbid_content(common_chat_params & params) {
    common_peg_arena arena;
    arena.load(params.parser);
    for (common_peg_parser_id id = 0; id < arena.size(); ++id) {
        const auto * tag = std::get_if<common_peg_tag_parser>(&arena.get(id));
        if (tag && tag->tag == common_chat_peg_builder::CONTENT) {
            replace_rule(params.grammar, "until-" + std::to_string(tag->child), "space");
        }
    }
}

// Where calls just follow each other, llama-common's grammar has as many as the model likes, asked or not.
void forbid_more_calls(common_chat_params & params) {
    string_replace_all(params.grammar, "\ntool-calls ::= (tool-call space)+\n", "\ntool-calls ::= tool-call space\n");
    string_replace_all(params.grammar, "\ntool-calls ::= (tool-call? space)+\n", "\ntool-calls ::= tool-call space\n");
}

// Where a code fence around an object is left to the model, it costs up to ten tokens and says nothing. Some models' formats
// insist on one: there it stays.
void forbid_fence(common_chat_params & params) {
    string_replace_all(params.grammar,
                       "(\"```json\" space response-format space \"```\" | space response-format space)",
                       "response-format");
    string_replace_all(params.grammar,
                       "(\"```json\" space response-format-schema space \"```\" | response-format-schema)",
                       "response-format-schema");
}

// llama-common's grammars let a number's exponent have 16 digits, which makes it infinite, and a string have one half of
// the escapes of a character.
void hold_json_values(common_chat_params & params) {
    string_replace_all(params.grammar, "([eE] [-+]? integral-part)?", "([eE] [-+]? [0-9]{1,2})?");
    string_replace_all(params.grammar, "\"u\" [0-9a-fA-F]{4})",
                       "\"u\" ([0-9a-cefA-CEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2}))");
}

// Puts rules that the caller has made into a grammar. Their places are those of constants in the schemas.
void put_rules(const common_json & rules, common_chat_params & params) {
    for (const auto & [constant, rule] : rules.at("constants").items()) {
        string_replace_all(params.grammar, gbnf_format_literal(constant), rule.get<std::string>());
    }
    params.grammar += rules.at("text").get<std::string>();
}

// A grammar with other names for its rules: a word in front of each.
std::string renamed(const std::string & grammar, const std::string & prefix) {
    std::string result;
    char        inside = 0; // what ends a literal, a class, a token or a count: what is in them is no name
    for (size_t i = 0; i < grammar.size(); ++i) {
        const char c = grammar[i];
        if (inside) {
            result += c;
            if (c == '\\' && (inside == '"' || inside == ']') && i + 1 < grammar.size()) {
                result += grammar[++i];
            } else if (c == inside) {
                inside = 0;
            }
        } else if (std::isalpha(static_cast<unsigned char>(c))) {
            result += prefix;
            while (i < grammar.size() && (std::isalnum(static_cast<unsigned char>(grammar[i])) || grammar[i] == '-')) {
                result += grammar[i++];
            }
            --i;
        } else {
            result += c;
            inside = c == '"' ? '"' : c == '[' ? ']' : c == '<' ? '>' : c == '{' ? '}' : c == '#' ? '\n' : 0;
        }
    }
    return result;
}

// Some of llama-common's templates know no schemas. What is left is the schema itself, and no thoughts before it.
common_chat_params render_schema(const common_chat_templates * templates, common_chat_templates_inputs inputs) {
    inputs.enable_thinking        = false;
    const common_chat_params full = common_chat_templates_apply(templates, inputs);

    common_chat_params params;
    params.prompt           = full.prompt;
    params.additional_stops = full.additional_stops;
    params.grammar          = json_schema_to_grammar(common_json::parse(inputs.json_schema));
    return params;
}

// What the template makes of a request for an answer with a schema.
common_chat_params apply_schema(const common_chat_templates * templates, const common_chat_templates_inputs & inputs) {
    common_chat_params params = common_chat_templates_apply(templates, inputs);
    if (params.grammar.empty()) {
        params = render_schema(templates, inputs);
    }
    forbid_fence(params);
    return params;
}

// What it makes of a request for tools.
common_chat_params apply_tools(const common_chat_templates * templates, const common_chat_templates_inputs & inputs) {
    common_chat_params params = common_chat_templates_apply(templates, inputs);
    if (inputs.tool_choice == COMMON_CHAT_TOOL_CHOICE_REQUIRED) {
        forbid_content(params);
    }
    if (!inputs.parallel_tool_calls) {
        forbid_more_calls(params);
    }
    return params;
}

// What it makes of a request for both, of which llama-common knows one only: calls, or an answer with the schema. It is
// read as any answer is that may have calls.
common_chat_params apply_both(const common_chat_templates * templates, const common_chat_templates_inputs & inputs) {
    common_chat_templates_inputs schema = inputs;
    schema.tools.clear();
    common_chat_templates_inputs calls = inputs;
    calls.json_schema.clear();
    common_chat_params params         = apply_tools(templates, calls);
    calls.tool_choice                 = COMMON_CHAT_TOOL_CHOICE_REQUIRED;
    const common_chat_params called   = apply_tools(templates, calls);
    const common_chat_params answered = apply_schema(templates, schema);
    // where llama-common knows no schemas, its grammar does not begin with the end of the prompt, as others do
    const std::string start = answered.generation_prompt.empty() ? gbnf_format_literal(called.generation_prompt) : "";
    params.grammar = "root ::= calls-root | " + start + " answer-root\n" + renamed(called.grammar, "calls-") + "\n" +
                     renamed(answered.grammar, "answer-");
    params.grammar_lazy = false;
    params.grammar_triggers.clear();
    return params;
}

common_chat_params apply(const common_chat_templates * templates, const common_chat_templates_inputs & inputs) {
    const bool has_tools  = !inputs.tools.empty() && inputs.tool_choice != COMMON_CHAT_TOOL_CHOICE_NONE;
    const bool has_schema = !inputs.json_schema.empty();
    return has_schema && has_tools ? apply_both(templates, inputs)
           : has_schema            ? apply_schema(templates, inputs)
                                   : apply_tools(templates, inputs);
}

// Some templates write only one part of an answer. The others give way to what it did: words beside a call to the call,
// thoughts to words. Returns what was given up.
std::vector<LeftOut> give_way(common_chat_templates_inputs & inputs, const std::vector<LeftOut> & lost) {
    std::vector<LeftOut> given_up;
    for (const LeftOut & text : lost) {
        if (text.part == "tool_calls" && !inputs.messages[text.index].content.empty()) {
            inputs.messages[text.index].content.clear();
            given_up.push_back({ text.index, "content" });
        } else if (text.part == "content" && !inputs.messages[text.index].reasoning_content.empty()) {
            inputs.messages[text.index].reasoning_content.clear();
            given_up.push_back({ text.index, "reasoning_content" });
        }
    }
    return given_up;
}

// What a thought begins and ends with; two empty texts, if there are no thoughts.
std::pair<std::string, std::string> thinking_marks(const common_chat_templates * templates) {
    common_chat_templates_inputs inputs;
    inputs.messages.emplace_back();
    inputs.messages.back().role    = "user";
    inputs.messages.back().content = "?";
    try {
        const common_chat_params params = common_chat_templates_apply(templates, inputs);
        if (!params.thinking_start_tag.empty() && !params.thinking_end_tags.empty()) {
            return { params.thinking_start_tag,
                     string_strip(params.thinking_end_tags.front()) }; // others begin what may follow
        }
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception &) { // it refuses this message, and may take others
    }
    return {};
}

// An answer in the history may begin with its thought, in the template's marks, which are not to be found in text: it is put
// where the template looks for thoughts.
void take_thoughts(common_chat_templates_inputs & inputs, const std::string & start, const std::string & end) {
    for (common_chat_msg & message : inputs.messages) {
        const std::string content = string_strip(message.content);
        if (message.role != "assistant" || !message.reasoning_content.empty() ||
            content.compare(0, start.size(), start) != 0) {
            continue;
        }
        const size_t at = content.find(end, start.size());
        if (at != std::string::npos) {
            message.reasoning_content = string_strip(content.substr(start.size(), at - start.size()));
            message.content           = string_strip(content.substr(at + end.size()));
        }
    }
}

// what the template, or else Jinja, says; llama-common reports at length where
std::string reason(const std::string & report) {
    for (const char * before : { "Jinja Exception: ", "\nError: " }) {
        const size_t pos = report.rfind(before);
        if (pos != std::string::npos) {
            return report.substr(pos + std::strlen(before));
        }
    }
    return report;
}

} // namespace

ChatTemplate::ChatTemplate(const llama_model * model, const char * source) {
    if (llama_vocab_type(llama_model_get_vocab(model)) == LLAMA_VOCAB_TYPE_NONE) {
        throw Error(KVF_ERROR_INVALID, "model: has no vocabulary; use a file that contains its tokenizer");
    }
    for (const char * own : { source, source ? nullptr : llama_model_chat_template(model, nullptr),
                              source ? nullptr : llama_model_chat_template(model, "tool_use") }) {
        if (own) {
            check_template_depth(own);
        }
    }
    const TemplateLimits limits(/* n_bytes = */ 0);
    try {
        if (source) { // llama-common's own error does not say what is wrong with it
            common_chat_template(source, "", "");
        }
        templates_      = common_chat_templates_init(model, source ? source : "");
        const auto caps = common_chat_templates_get_caps(templates_.get());
        // one that knows calls, but does not say which tools there are, is no help either
        if (!caps.at("supports_tool_calls") || !caps.at("supports_tools")) {
            const std::string role = caps.at("supports_system_role") ? "system" : "user";
            with_tools_ = common_chat_templates_init(model, "{%- set tools_role = '" + role + "' %}" + tool_prelude +
                                                                common_chat_templates_source(templates_.get()));
        }
        const llama_vocab * vocab = llama_model_get_vocab(model);
        plain_text_.emplace(vocab, common_chat_templates_source(templates_.get()) +
                                       common_chat_templates_source(templates_.get(), "tool_use") +
                                       (with_tools_ ? tool_prelude : ""));
        turn_marks_                              = turn_marks_in_text(vocab, templates_.get());
        std::tie(thinking_start_, thinking_end_) = thinking_marks(templates_.get());
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception & e) {
        limits.check();
        throw Error(KVF_ERROR_INVALID, std::string("chat_template: does not parse: ") + e.what());
    }
    limits.check();
}

const common_chat_templates * ChatTemplate::for_request(const common_chat_templates_inputs & inputs) const {
    if (with_tools_) {
        if (!inputs.tools.empty()) {
            return with_tools_.get();
        }
        for (const common_chat_msg & message : inputs.messages) {
            if (message.role == "tool" || !message.tool_calls.empty()) {
                return with_tools_.get();
            }
        }
    }
    return templates_.get();
}

std::vector<LeftOut> ChatTemplate::left_out(const common_chat_templates *        templates,
                                            const common_chat_templates_inputs & inputs) const {
    const LeftOutTexts texts(inputs);
    {
        const std::lock_guard lock(left_out_mutex_);
        const auto            known = left_out_.find(texts.shape());
        if (known != left_out_.end()) {
            return known->second;
        }
    }
    const std::vector<LeftOut> found = texts.find(templates);
    const std::lock_guard      lock(left_out_mutex_);
    if (left_out_.size() >= 1000) {
        left_out_.clear();
    }
    return left_out_[texts.shape()] = found;
}

std::string ChatTemplate::capabilities() const {
    common_json result = common_json::object();
    for (const auto & [name, supported] : common_chat_templates_get_caps(templates_.get())) {
        result[name] = supported;
    }
    result["supports_thinking"] = common_chat_templates_support_enable_thinking(templates_.get());
    return result.dump();
}

std::string ChatTemplate::render(const std::string & request) const {
    const TemplateLimits limits(request.size());
    std::string          mark; // of text in what is rendered
    try {
        const common_json             json      = parse_request(request);
        common_chat_templates_inputs  inputs    = parse(json);
        const common_chat_templates * templates = for_request(inputs);
        const bool                    several   = templates == templates_.get() &&
                             common_chat_templates_get_caps(templates).at("supports_parallel_tool_calls");
        inputs.parallel_tool_calls = json.value("parallel_tool_calls", several);

        // who has to call a tool does not answer yet
        if (!inputs.tools.empty() && inputs.tool_choice == COMMON_CHAT_TOOL_CHOICE_REQUIRED) {
            inputs.json_schema.clear();
        }
        std::vector<LeftOut> lost = left_out(templates, inputs);
        if (const std::vector<LeftOut> given_up = give_way(inputs, lost); !given_up.empty()) {
            lost = left_out(templates, inputs);
            lost.insert(lost.end(), given_up.begin(), given_up.end());
        }
        common_chat_params    params;
        std::vector<uint64_t> plain;
        if (json.value("special_tokens_in_text", false)) {
            params = apply(templates, inputs);
        } else {
            if (!thinking_start_.empty()) {
                take_thoughts(inputs, thinking_start_, thinking_end_);
            }
            mark = plain_text_->free_mark(request);
            plain_text_->mark_messages(inputs, mark);
            params = apply(templates, inputs);
            // a grammar has names and schemas in it, which must not be marked there
            if (plain_text_->mark_schemas(inputs, mark)) {
                params.prompt = apply(templates, inputs).prompt;
            }
            plain = plain_text_->unmark(params.prompt, mark);
            string_replace_all(params.generation_prompt, mark, "");
        }
        limits.check();
        hold_json_values(params);
        if (json.contains("rules") && !params.grammar.empty()) {
            put_rules(json.at("rules"), params);
        }
        const AnswerFormat format(params);

        common_json result = common_json::object();
        result["prompt"]   = params.prompt;
        result["grammar"]  = params.grammar;
        result["stop"]     = params.additional_stops;
        result["format"]   = format.to_json();
        result["plain"]    = common_json::array();
        for (const uint64_t offset : plain) {
            result["plain"].push_back(offset);
        }
        result["text_marks"] = common_json::array();
        for (const std::string & turn_mark : turn_marks_) {
            result["stop"].push_back(turn_mark);
            result["text_marks"].push_back(turn_mark);
        }
        result["left_out"] = common_json::array();
        for (const LeftOut & text : lost) {
            common_json entry = common_json::object();
            entry["index"]    = text.index;
            entry["part"]     = text.part;
            result["left_out"].push_back(entry);
        }
        result["is_fallback"] = !common_chat_templates_was_explicit(templates_.get());
        return result.dump();
    } catch (const Error &) {
        throw;
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception & e) {
        limits.check();
        std::string report = e.what();
        if (!mark.empty()) {
            string_replace_all(report, mark, "");
        }
        const size_t schema = report.find("JSON schema ");
        if (schema != std::string::npos) {
            throw Error(KVF_ERROR_INVALID, "a schema (of response_format, or of a tool) cannot be made a grammar: " +
                                               report.substr(schema) + "; change it there, or leave that part open");
        }
        throw Error(KVF_ERROR_INVALID, "messages: the chat template refuses them: " + reason(report) +
                                           "; pass roles and an order that it knows, or another chat_template");
    }
}

} // namespace kvf
