#pragma once

#include "llama.h"

#include <cstddef>
#include <vector>

namespace kvf {

// The sequence ids of a context and the cells behind them: who has one may decode into it.
class Sequences {
  public:
    explicit Sequences(llama_context * ctx);

    // an id whose sequence is empty, -1 if all are taken
    llama_seq_id take();

    // gives an id back and drops its sequence
    void give_back(llama_seq_id seq);

    // makes dst, which must be empty, the first n tokens of src; false (dst stays empty) if this memory cannot
    bool fork(llama_seq_id src, llama_seq_id dst, size_t n);

    // the longest beginning of src, at most n tokens, that fork() can copy
    size_t forkable(llama_seq_id src, size_t n) const;

    // every beginning of every sequence can be forked: no recurrent state, no sliding window
    bool forks_anywhere() const { return forks_anywhere_; }

    size_t n_cells() const;
    size_t n_used() const;

    // there seems to be room for so many more tokens; llama_decode has the last word
    bool fits(size_t n_tokens) const;

  private:
    llama_memory_t            memory_;
    bool                      is_recurrent_; // cells hold states, not tokens
    bool                      forks_anywhere_;
    std::vector<llama_seq_id> free_;
};

} // namespace kvf
