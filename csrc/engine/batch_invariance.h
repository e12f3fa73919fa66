#pragma once

#include "llama.h"

namespace kvf {

// llama_decode, to be called in its place: the switches of ggml's kernels are the process's, and no graph may see one
// change.
int32_t decode(llama_context * ctx, const llama_batch & batch);

// While one of these lives, a row of a matrix product on the CPU does not depend on how many rows there are, in the whole
// process. The rest of what it takes is in the pages of the cache (Sequences) and in attention, which adds up along them.
class BatchInvariance {
  public:
    BatchInvariance();
    ~BatchInvariance();

    BatchInvariance(const BatchInvariance &)             = delete;
    BatchInvariance & operator=(const BatchInvariance &) = delete;
};

// Computes some tokens alone, then in other chunks and beside other sequences, and compares the logits' bits. Throws
// Error(KVF_ERROR_INVALID) if they differ: which kernels there are depends on the model, the back end and the processor.
// The memory must be empty, and is in the end.
void prove_batch_invariance(llama_context * ctx);

} // namespace kvf
