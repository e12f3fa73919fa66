#include "chat/answer_format.h"

#include "kvf_error.h"
#include "text/nesting.h"

namespace kvf {

namespace {

// FNV-1a, 64 bits: a text that was cut or changed on its way is not to reach parsers that trust it
std::string checksum(const std::string & text) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (const unsigned char c : text) {
        hash = (hash ^ c) * 0x100000001b3u;
    }
    return std::to_string(hash);
}

} // namespace

AnswerFormat::AnswerFormat(const common_chat_params & params)
    : grammar(params.grammar),
      grammar_lazy(params.grammar_lazy),
      triggers(params.grammar_triggers),
      preserved_tokens(params.preserved_tokens),
      generation_prompt(params.generation_prompt),
      thinking_start(params.thinking_start_tag),
      thinking_ends(params.thinking_end_tags),
      parser_kind(params.format),
      parser(params.parser) {}

AnswerFormat::AnswerFormat(const char * json) {
    try {
        if (json_depth(json) > MAX_JSON_DEPTH) {
            throw std::runtime_error("it is nested too deep");
        }
        common_json       format = common_json::parse(json);
        const std::string check  = format.at("check").get<std::string>();
        format.erase("check");
        if (check != checksum(format.dump())) {
            throw std::runtime_error("it was changed on its way");
        }
        grammar           = format.at("grammar").get<std::string>();
        grammar_lazy      = format.at("grammar_lazy").get<bool>();
        preserved_tokens  = format.at("preserved_tokens").get<std::vector<std::string>>();
        generation_prompt = format.at("generation_prompt").get<std::string>();
        thinking_start    = format.at("thinking_start").get<std::string>();
        thinking_ends     = format.at("thinking_ends").get<std::vector<std::string>>();
        parser_kind       = static_cast<common_chat_format>(format.at("parser_kind").get<int>());
        parser            = format.at("parser").get<std::string>();
        for (const common_json & trigger : format.at("triggers")) {
            triggers.push_back({ static_cast<common_grammar_trigger_type>(trigger.at("type").get<int>()),
                                 trigger.at("value").get<std::string>(), trigger.at("token").get<llama_token>() });
        }
    } catch (const std::exception & e) {
        throw Error(KVF_ERROR_INVALID, std::string("format: is not what kvf_chat_render returned: ") + e.what());
    }
}

std::string AnswerFormat::to_json() const {
    common_json format          = common_json::object();
    format["grammar"]           = grammar;
    format["grammar_lazy"]      = grammar_lazy;
    format["preserved_tokens"]  = preserved_tokens;
    format["generation_prompt"] = generation_prompt;
    format["thinking_start"]    = thinking_start;
    format["thinking_ends"]     = thinking_ends;
    format["parser_kind"]       = static_cast<int>(parser_kind);
    format["parser"]            = parser;
    format["triggers"]          = common_json::array();
    for (const common_grammar_trigger & trigger : triggers) {
        common_json json = common_json::object();
        json["type"]     = static_cast<int>(trigger.type);
        json["value"]    = trigger.value;
        json["token"]    = trigger.token;
        format["triggers"].push_back(json);
    }
    format["check"] = checksum(format.dump());
    return format.dump();
}

void AnswerFormat::apply(const llama_vocab * vocab, common_params_sampling & params) const {
    for (const std::string & text : preserved_tokens) {
        const llama_tokens tokens = common_tokenize(vocab, text, /* add_special = */ false, /* parse_special = */ true);
        if (tokens.size() == 1) {
            params.preserved_tokens.insert(tokens[0]);
        }
    }
    if (grammar.empty()) {
        return;
    }
    params.grammar           = { COMMON_GRAMMAR_TYPE_TOOL_CALLS, grammar };
    params.grammar_lazy      = grammar_lazy;
    params.generation_prompt = generation_prompt;
    for (common_grammar_trigger trigger : triggers) {
        if (trigger.type == COMMON_GRAMMAR_TRIGGER_TYPE_WORD) {
            // a special token is not in the text that words are searched in
            const llama_tokens tokens = common_tokenize(vocab, trigger.value, false, true);
            if (tokens.size() == 1 && params.preserved_tokens.count(tokens[0])) {
                trigger.type  = COMMON_GRAMMAR_TRIGGER_TYPE_TOKEN;
                trigger.token = tokens[0];
            }
        }
        params.grammar_triggers.push_back(std::move(trigger));
    }
    // thoughts about a tool must not trigger its grammar: the sampler that budgets them knows where they end
    if (!thinking_start.empty() && !thinking_ends.empty()) {
        params.reasoning_budget_start = common_tokenize(vocab, thinking_start, false, true);
        for (const std::string & end : thinking_ends) {
            params.reasoning_budget_end.push_back(common_tokenize(vocab, end, false, true));
        }
        params.reasoning_budget_forced = params.reasoning_budget_end.front();
    }
}

} // namespace kvf
