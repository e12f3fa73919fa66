#pragma once

#include "llama.h"

namespace kvf {

// Computes some tokens alone, then in other chunks and beside other sequences, and compares the logits' bits. Throws
// Error(KVF_ERROR_INVALID) if they differ: which kernels there are depends on the model, the back end and the processor.
// The memory must be empty, and is in the end.
//
// What it takes is an option of the context's CPU back end, so that a row of a matrix product does not depend on how many
// rows there are; the pages of the cache (Sequences); and attention, which adds up along these.
void prove_batch_invariance(llama_context * ctx);

} // namespace kvf
