#include "chat_template.h"

#include "error.h"
#include "json.h"

#include <cstring>

namespace kvf {

namespace {

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
    inputs.parallel_tool_calls   = request.value("parallel_tool_calls", false);
    inputs.add_generation_prompt = request.value("add_generation_prompt", true);
    inputs.enable_thinking       = request.value("enable_thinking", true);
    return inputs;
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
    try {
        if (source) { // llama-common's own error does not say what is wrong with it
            common_chat_template(source, "", "");
        }
        templates_ = common_chat_templates_init(model, source ? source : "");
    } catch (const std::exception & e) {
        throw Error(KVF_ERROR_INVALID, std::string("chat_template: does not parse: ") + e.what());
    }
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
    try {
        const common_chat_params params =
            common_chat_templates_apply(templates_.get(), parse(common_json::parse(request)));
        common_json result     = common_json::object();
        result["prompt"]       = params.prompt;
        result["grammar"]      = params.grammar;
        result["grammar_lazy"] = params.grammar_lazy;
        result["stop"]         = params.additional_stops;
        return result.dump();
    } catch (const std::exception & e) {
        throw Error(KVF_ERROR_INVALID, "messages: the chat template refuses them: " + reason(e.what()) +
                                           "; give roles and an order that it knows, or another chat_template");
    }
}

} // namespace kvf
