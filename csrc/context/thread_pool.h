#pragma once

#include "llama.h"

#include <memory>

namespace kvf {

// The threads that compute a context's graphs beside the one that calls llama_decode. They are there as long as the pool
// is, and sleep between graphs: other programs need the processors, too. Without a pool llama.cpp starts and joins
// threads for every graph.
class ThreadPool {
  public:
    // throws Error(KVF_ERROR_INVALID) if the system refuses that many threads
    explicit ThreadPool(int32_t n_threads);

    // the context computes with these threads from now on, and must be freed before them
    void attach(llama_context * ctx) const;

  private:
    std::unique_ptr<ggml_threadpool, void (*)(ggml_threadpool *)> pool_{ nullptr, nullptr };
};

} // namespace kvf
