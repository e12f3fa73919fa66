#pragma once

#include "cache/room.h"
#include "llama.h"

#include <cstddef>
#include <vector>

namespace kvf {

// The sequence ids of a context: who has one may decode into it.
class Sequences {
  public:
    Sequences(llama_context * ctx, Room & room);

    // an id whose sequence is empty, -1 if all are taken
    llama_seq_id take();

    // all are taken
    bool none_left() const { return free_.empty(); }

    // those that are not taken
    const std::vector<llama_seq_id> & free() const { return free_; }

    // gives an id back and drops its sequence
    void give_back(llama_seq_id seq);

    // gives all of them back, whatever the memory holds
    void clear();

    // makes dst, which must be empty, the first n tokens of src, to be continued; false (dst stays empty) if this memory
    // cannot. The page that n lies in is copied
    bool fork(llama_seq_id src, llama_seq_id dst, size_t n);

    // as fork(), for a dst that will never be continued, only forked: nothing is copied
    bool keep(llama_seq_id src, llama_seq_id dst, size_t n);

    // cuts a sequence down to its first n tokens; false, and nothing changes, if this memory cannot
    bool cut(llama_seq_id seq, size_t n);

    // the longest beginning of src, at most n tokens, that fork() can copy
    size_t forkable(llama_seq_id src, size_t n) const;

    // every beginning of every sequence can be forked: no recurrent state, no sliding window
    bool forks_anywhere() const { return forks_anywhere_; }

  private:
    friend struct Tampering;

    llama_context *           ctx_;
    llama_memory_t            memory_;
    Room &                    room_;
    bool                      forks_anywhere_;
    std::vector<llama_seq_id> free_;
};

} // namespace kvf
