// Grammars: refused with a reason, or one that llama.cpp can be given.

#include "fuzz.h"
#include "kvf_error.h"
#include "text/grammar.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    const std::string   grammar(reinterpret_cast<const char *>(data), size);
    const llama_vocab * vocab = llama_model_get_vocab(vocabulary());
    try {
        kvf::check_grammar(vocab, grammar, /* is_exact = */ true);
    } catch (const kvf::Error & error) {
        CHECK(*error.what() && error.kind == KVF_ERROR_INVALID);
        return 0;
    }
    llama_sampler * sampler = llama_sampler_init_grammar(vocab, grammar.c_str(), "root");
    CHECK(sampler);
    llama_sampler_free(sampler);
    return 0;
}
