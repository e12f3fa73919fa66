#include "context/batch_invariance.h"

#include "kvf_error.h"
#include "llama-fork.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

namespace kvf {

namespace {

// those of the smallest part
uint32_t n_pages(llama_memory_t memory) {
    uint32_t n = UINT32_MAX;
    for (uint32_t i = 0; i < llama_memory_n_parts(memory); ++i) {
        n = std::min(n, llama_memory_get_part(memory, i).n_runs);
    }
    return n;
}

// Sequence 0 of a context, decoded by hand beside others.
class Proof {
  public:
    explicit Proof(llama_context * ctx)
        : ctx_(ctx),
          n_vocab_(llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx)))),
          n_others_(
              std::min({ 7u, llama_n_seq_max(ctx) - 1, n_pages(llama_get_memory(ctx)) - 1, llama_n_batch(ctx) - 1 })),
          batch_(llama_batch_init(static_cast<int32_t>(llama_n_batch(ctx)), 0, 1)) {}

    ~Proof() { llama_batch_free(batch_); }

    Proof(const Proof &)             = delete;
    Proof & operator=(const Proof &) = delete;

    // The logits after N_TOKENS tokens in chunks of these sizes, the last one with a row of each other sequence around it
    // if it is to have company.
    std::vector<float> logits(const std::vector<uint32_t> & chunks, bool in_company) {
        llama_memory_clear(llama_get_memory(ctx_), false);
        llama_pos pos   = 0;
        int32_t   i_row = 0;
        for (const uint32_t n_chunk : chunks) {
            const bool     is_last = &n_chunk == &chunks.back();
            const uint32_t n_with  = is_last && in_company ? n_others_ : 0;
            const uint32_t n_most  = llama_n_batch(ctx_) - n_with;
            for (uint32_t n_left = n_chunk; n_left > 0;) {
                const uint32_t n = std::min(n_left, n_most);
                n_left -= n;
                const uint32_t n_around = n_left == 0 ? n_with : 0;
                batch_.n_tokens         = 0;
                for (uint32_t i = 0; i < n_around / 2; ++i) {
                    add(1 + i, 0);
                }
                for (uint32_t i = 0; i < n; ++i) {
                    add(0, pos++);
                }
                i_row = batch_.n_tokens - 1;
                for (uint32_t i = n_around / 2; i < n_around; ++i) {
                    add(1 + i, 0);
                }
                batch_.logits[i_row] = 1;
                compute();
            }
        }
        const float * row = llama_get_logits_ith(ctx_, i_row);
        return std::vector<float>(row, row + n_vocab_);
    }

    static constexpr uint32_t N_TOKENS = 24;

  private:
    void add(uint32_t seq, llama_pos pos) {
        const int32_t i = batch_.n_tokens++;
        batch_.token[i] = static_cast<llama_token>((seq * 7919 + static_cast<uint32_t>(pos) * 104729 + 1) % n_vocab_);
        batch_.pos[i]   = pos;
        batch_.n_seq_id[i]  = 1;
        batch_.seq_id[i][0] = static_cast<llama_seq_id>(seq);
        batch_.logits[i]    = seq > 0; // sequences that decode want logits
    }

    void compute() {
        const int32_t status = llama_decode(ctx_, batch_);
        if (status != 0) {
            throw Error(KVF_ERROR_INTERNAL,
                        "batch_invariant: llama_decode failed with status " + std::to_string(status));
        }
    }

    llama_context * ctx_;
    uint32_t        n_vocab_;
    uint32_t        n_others_;
    llama_batch     batch_;
};

} // namespace

void prove_batch_invariance(llama_context * ctx) {
    const llama_model * model = llama_get_model(ctx);
    if (llama_model_is_recurrent(model) || llama_model_is_hybrid(model)) {
        throw Error(KVF_ERROR_INVALID,
                    "batch_invariant: this model has recurrent states, which depend on the chunks that a prompt is "
                    "computed in; leave batch_invariant off");
    }
    Proof                    proof(ctx);
    const uint32_t           n     = Proof::N_TOKENS;
    const std::vector<float> alone = proof.logits({ n - 1, 1 }, false);

    const std::vector<std::vector<uint32_t>> others = {
        { 5, 1, n - 7, 1 }, // other chunks, then one row of many
        { 2, n - 2 },       // the last of many rows
    };
    for (const auto & chunks : others) {
        const std::vector<float> row = proof.logits(chunks, true);
        if (std::memcmp(row.data(), alone.data(), row.size() * sizeof(float)) != 0) {
            throw Error(
                KVF_ERROR_INVALID,
                "batch_invariant: with this model's types of weights, on this processor or device, what a branch "
                "computes depends on what else is in the batch; leave batch_invariant off, use other "
                "quantizations (F16, Q8_0, Q4_K_M), or keep all layers on the CPU (n_gpu_layers = 0)");
        }
    }
    llama_memory_clear(llama_get_memory(ctx), false);
}

} // namespace kvf
