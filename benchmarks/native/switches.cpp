// Makes the contexts of a tool of llama.cpp, with everything on that the engine turns on.
#include "context/thread_pool.h"
#include "llama-cpu-options.h"
#include "llama-pages.h"
#include "llama.h"

#include <algorithm>

extern "C" llama_context * kvfork_init_from_model(llama_model * model, llama_context_params params);

static const bool plain = (ggml_cpu_set_plain_weights(true), true); // before a model is loaded

llama_context * kvfork_init_from_model(llama_model * model, llama_context_params params) {
    llama_context * ctx = llama_init_from_model(model, params);
    if (ctx) {
        llama_set_cpu_options(ctx, GGML_CPU_OPTION_FAN_OUT_ATTN | GGML_CPU_OPTION_FAN_OUT_MUL_MAT);
        llama_memory_set_paged(llama_get_memory(ctx), LLAMA_PAGED_PREFER);
        static const kvf::ThreadPool threads(std::max(params.n_threads, params.n_threads_batch));
        threads.attach(ctx);
    }
    return ctx;
}
