#pragma once

#include "llama.h"

#include <cstddef>
#include <vector>

namespace kvf {

// The sequence ids of a context and the cells behind them: who has one may decode into it.
//
// They are placed by pages (llama-pages.h) where the memory can have that. Pages that are strict make what attention
// reads for a token independent of what else is in the cache.
class Sequences {
  public:
    explicit Sequences(llama_context * ctx, bool strict_pages = false);

    // an id whose sequence is empty, -1 if all are taken
    llama_seq_id take();

    // gives an id back and drops its sequence
    void give_back(llama_seq_id seq);

    // makes dst, which must be empty, the first n tokens of src, to be continued; false (dst stays empty) if this memory
    // cannot. The page that n lies in is copied
    bool fork(llama_seq_id src, llama_seq_id dst, size_t n);

    // as fork(), for a dst that will never be continued, only forked: nothing is copied
    bool keep(llama_seq_id src, llama_seq_id dst, size_t n);

    // the longest beginning of src, at most n tokens, that fork() can copy
    size_t forkable(llama_seq_id src, size_t n) const;

    // every beginning of every sequence can be forked: no recurrent state, no sliding window
    bool forks_anywhere() const { return forks_anywhere_; }

    size_t n_cells() const;
    size_t n_used() const;

    // the cells that it takes to have n more tokens on a sequence that has n_past
    size_t n_cells_for(size_t n_past, size_t n) const;

    // the same on a fork at n_past that is yet to be made
    size_t n_cells_for_fork(size_t n_past, size_t n) const;

    // there seems to be room for so many more cells; llama_decode has the last word
    bool fits(size_t n_cells) const;

    // makes the most of what is free; false if nothing changed
    bool compact();

  private:
    llama_context *           ctx_;
    llama_memory_t            memory_;
    bool                      strict_pages_;
    bool                      is_recurrent_; // cells hold states, not tokens
    bool                      forks_anywhere_;
    std::vector<llama_seq_id> free_;
};

} // namespace kvf
