// Makes the contexts of a tool of llama.cpp, with everything on that the engine turns on.
#include "context/thread_pool.h"
#include "ggml-cpu-fan-out.h"
#include "llama-pages.h"
#include "llama.h"

#include <algorithm>

extern "C" llama_context * kvfork_init_from_model(llama_model * model, llama_context_params params);

llama_context * kvfork_init_from_model(llama_model * model, llama_context_params params) {
    ggml_cpu_set_fan_out_attn(true);
    ggml_cpu_set_fan_out_mul_mat(true);
    llama_context * ctx = llama_init_from_model(model, params);
    if (ctx) {
        llama_memory_set_paged(llama_get_memory(ctx), LLAMA_PAGED_PREFER);
        static const kvf::ThreadPool threads(std::max(params.n_threads, params.n_threads_batch));
        threads.attach(ctx);
    }
    return ctx;
}
