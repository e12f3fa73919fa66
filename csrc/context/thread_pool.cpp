#include "context/thread_pool.h"

#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "kvf_error.h"

#include <string>

namespace kvf {

namespace {

// by name, since the CPU's back end may be a plugin
template <typename Function>
Function * cpu_function(const char * name) {
    ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    return cpu ? reinterpret_cast<Function *>(
                     ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu), name))
               : nullptr;
}

} // namespace

ThreadPool::ThreadPool(int32_t n_threads) {
    if (n_threads < 1 || n_threads > GGML_MAX_N_THREADS) {
        throw Error(KVF_ERROR_INVALID, "n_threads = " + std::to_string(n_threads) + ": must be from 1 to " +
                                           std::to_string(GGML_MAX_N_THREADS));
    }
    const auto make = cpu_function<decltype(ggml_threadpool_new)>("ggml_threadpool_new");
    const auto free = cpu_function<decltype(ggml_threadpool_free)>("ggml_threadpool_free");
    if (!make || !free) {
        return;
    }
    ggml_threadpool_params params = ggml_threadpool_params_default(n_threads);
    params.poll                   = 0; // between graphs; at barriers within one, patch 0008 has a bound
    pool_                         = { make(&params), free };
    if (!pool_) {
        throw Error(KVF_ERROR_INVALID,
                    "n_threads = " + std::to_string(n_threads) + ": the system refuses that many; pass fewer");
    }
}

void ThreadPool::attach(llama_context * ctx) const {
    llama_attach_threadpool(ctx, pool_.get(), pool_.get());
}

} // namespace kvf
