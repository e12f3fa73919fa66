#pragma once

#include "../native/check.h"
#include "kvfork.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

// What the fuzzed readers share. Each file has one LLVMFuzzerTestOneInput: libFuzzer calls it with whatever leads into code
// that no input before has reached, and reports what ends the process, leaks, or takes too long.

// a model's vocabulary, without its weights
inline const llama_model * vocabulary() {
    static const std::unique_ptr<llama_model, void (*)(llama_model *)> model = [] {
        kvf_set_log_level(GGML_LOG_LEVEL_NONE);
        llama_backend_init();
        llama_model_params params = llama_model_default_params();
        params.vocab_only         = true;
        return std::unique_ptr<llama_model, void (*)(llama_model *)>(llama_model_load_from_file(VOCABULARY, params),
                                                                     llama_model_free);
    }();
    CHECK(model);
    return model.get();
}

// the input's parts: lines of "--" are between them
inline std::vector<std::string> parts_of(const uint8_t * data, size_t size) {
    const std::string        text(reinterpret_cast<const char *>(data), size);
    const std::string        between = "\n--\n";
    std::vector<std::string> parts;
    size_t                   begin = 0;
    for (size_t end; (end = text.find(between, begin)) != std::string::npos; begin = end + between.size()) {
        parts.push_back(text.substr(begin, end - begin));
    }
    parts.push_back(text.substr(begin));
    return parts;
}

// what a function of the C ABI returned: a string, or nothing and a reason
inline std::string taken(char * text) {
    if (!text) {
        CHECK(*kvf_last_error());
        CHECK(kvf_last_error_kind() != KVF_ERROR_NONE);
        return "";
    }
    std::string copy = text;
    kvf_string_free(text);
    return copy;
}
