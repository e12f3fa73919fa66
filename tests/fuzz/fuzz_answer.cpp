// Answers, piece by piece. The input: a byte that chooses a model's template, and what it may say, a piece in each part.

#include "fuzz.h"
#include "json.h"
#include "text/text_stream.h"

#include <fstream>
#include <iterator>

namespace {

// what answers look like: several families of calls and thoughts
const std::vector<std::string> & formats() {
    static const std::vector<std::string> all = [] {
        std::vector<std::string> out;
        for (const char * name : {
                 "Qwen-Qwen3-0.6B",
                 "meta-llama-Llama-3.2-3B-Instruct",
                 "mistralai-Mistral-Nemo-Instruct-2407",
                 "openai-gpt-oss-120b",
                 "deepseek-ai-DeepSeek-V3.1",
                 "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
             }) {
            std::ifstream     file(std::string(TEMPLATES "/") + name + ".jinja");
            const std::string source{ std::istreambuf_iterator<char>(file), {} };
            CHECK(!source.empty());
            kvf_chat * chat = kvf_chat_create(vocabulary(), source.c_str());
            CHECK(chat);
            for (const char * more : { "", R"(, "json_schema": {"type": "object"})" }) {
                const std::string request = std::string(R"({"messages": [{"role": "user", "content": "1?"}],
                    "tools": [{"type": "function", "function": {"name": "add", "description": "", "parameters":
                    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}}}}])") +
                                            more + "}";
                const std::string rendered = taken(kvf_chat_render(chat, request.c_str()));
                if (!rendered.empty()) {
                    out.push_back(common_json::parse(rendered).at("format").get<std::string>());
                }
            }
            kvf_chat_free(chat);
        }
        CHECK(out.size() >= 6);
        return out;
    }();
    return all;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    if (size == 0) {
        return 0;
    }
    kvf_answer * answer = kvf_answer_create(formats()[data[0] % formats().size()].c_str());
    CHECK(answer);
    const std::vector<std::string> pieces = parts_of(data + 1, size - 1);
    kvf::TextStream                text({}); // as an engine gives it: whole characters
    for (size_t i = 0; i < pieces.size(); ++i) {
        const bool  is_last = i + 1 == pieces.size();
        std::string piece   = text.push(pieces[i]);
        piece += is_last ? text.flush() : "";
        const std::string delta = taken(kvf_answer_push(answer, piece.data(), piece.size(), is_last));
        CHECK(!delta.empty()); // whatever a model says is an answer
    }
    kvf_answer_free(answer);
    return 0;
}
