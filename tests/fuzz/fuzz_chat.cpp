// Chat templates and requests to render. The input: a template in Jinja, and a request as kvf_chat_render takes it. What comes
// of it is turned into tokens, and its format has to be one that kvf_answer_create takes.

#include "fuzz.h"
#include "json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    const std::vector<std::string> parts = parts_of(data, size);
    if (parts.size() < 2) {
        return 0;
    }
    kvf_chat * chat = kvf_chat_create(vocabulary(), parts[0].c_str());
    if (!chat) {
        CHECK(*kvf_last_error());
        return 0;
    }
    taken(kvf_chat_capabilities(chat));
    const std::string rendered = taken(kvf_chat_render(chat, parts[1].c_str()));
    kvf_chat_free(chat);
    if (rendered.empty()) {
        return 0;
    }
    const common_json json   = common_json::parse(rendered);
    const std::string prompt = json.at("prompt").get<std::string>();
    const auto        plain  = json.at("plain").get<std::vector<uint64_t>>();
    CHECK(kvf_tokenize(vocabulary(), prompt.data(), prompt.size(), plain.data(), plain.size(), nullptr, 0, true,
                       true) >= 0);
    kvf_answer * answer = kvf_answer_create(json.at("format").get<std::string>().c_str());
    CHECK(answer);
    const std::string said = parts.size() > 2 ? parts[2] : prompt;
    taken(kvf_answer_push(answer, said.data(), said.size(), true));
    kvf_answer_free(answer);
    return 0;
}
