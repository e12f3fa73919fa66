#pragma once

#include "harness.h"
#include "llama-cpu-options.h"
#include "llama-fork.h"
#include "llama-pages.h"

inline constexpr uint32_t N_CTX   = 512; // 8 pages
inline constexpr uint32_t N_CHUNK = 32;

// a context of 8 sequences with pages or without, decoded by hand
class Cache {
  public:
    Cache(const Model & model, llama_paged paged)
        : n_vocab_(model.n_vocab()),
          context_(model, model.params(N_CTX, N_CHUNK, 8)),
          memory_(llama_get_memory(context_.ctx.get())),
          is_paged_(llama_memory_set_paged(memory_, paged)) {
        CHECK(llama_set_cpu_options(context_.ctx.get(), GGML_CPU_OPTION_FAN_OUT_ATTN));
    }

    bool is_paged() const { return is_paged_; }

    // the status of llama_decode
    int32_t decode(llama_seq_id seq, Tokens tokens, llama_pos pos) {
        Tokens                      copy = std::move(tokens);
        const auto                  n    = static_cast<int32_t>(copy.size());
        std::vector<llama_pos>      positions(n);
        std::vector<int32_t>        n_seq_id(n, 1);
        std::vector<llama_seq_id *> seq_id(n, &seq);
        std::vector<int8_t>         logits(n, 0);
        for (int32_t i = 0; i < n; ++i) {
            positions[i] = pos + i;
        }
        logits[n - 1]     = 1;
        llama_batch batch = {
            n, copy.data(), nullptr, positions.data(), n_seq_id.data(), seq_id.data(), logits.data()
        };
        return llama_decode(context_.ctx.get(), batch);
    }

    // all tokens, in chunks as a prefill has them up to n_prompt, then one at a time; the logits after the last
    std::vector<float> run(llama_seq_id seq, const Tokens & tokens, size_t n_past, size_t n_prompt) {
        for (size_t i = n_past; i < tokens.size();) {
            const size_t n = i < n_prompt ? std::min<size_t>(N_CHUNK, n_prompt - i) : 1;
            CHECK(decode(seq, { tokens.begin() + i, tokens.begin() + i + n }, static_cast<llama_pos>(i)) == 0);
            i += n;
        }
        return logits();
    }

    std::vector<float> logits() const {
        const float * row = llama_get_logits_ith(context_.ctx.get(), -1);
        return { row, row + n_vocab_ };
    }

    bool fork(llama_seq_id src, llama_seq_id dst, llama_pos n_past = -1) {
        return llama_memory_seq_fork(memory_, src, dst, n_past);
    }

    // back to the first n_past tokens
    bool cut(llama_seq_id seq, llama_pos n_past) { return llama_memory_seq_rm(memory_, seq, n_past, -1); }

    bool own_page(llama_seq_id seq) { return llama_memory_seq_own_page(memory_, seq); }

    void drop(llama_seq_id seq) { llama_memory_seq_drop(memory_, seq); }

    bool compact() { return llama_memory_compact(memory_); }

    // the least over all parts
    uint32_t n_pages_free() const {
        uint32_t n = UINT32_MAX;
        for (uint32_t i = 0; i < llama_memory_n_parts(memory_); ++i) {
            n = std::min(n, llama_memory_get_part(memory_, i).n_runs_empty);
        }
        return n;
    }

    uint32_t n_cells_used() const { return llama_memory_n_cells_used(memory_); }

  private:
    int32_t        n_vocab_;
    Context        context_;
    llama_memory_t memory_;
    bool           is_paged_;
};

inline Tokens tokens_of(const Model & model, uint32_t seed, size_t n) {
    std::mt19937 rng(seed);
    return random_tokens(rng, n, std::min(model.n_vocab(), 120));
}

inline Tokens joined(const Tokens & a, const Tokens & b) {
    Tokens out = a;
    out.insert(out.end(), b.begin(), b.end());
    return out;
}
