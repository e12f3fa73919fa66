#pragma once

#include "llama.h"
#include "store/store.h"

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

namespace kvf {

// Copies what snapshots hold out of the memory, for a store, a little at a time, so that those who decode need not wait.
class Saves {
  public:
    // what is in a file of its own, where tokens have rows; a longer prompt adds only what comes after the last whole one
    static constexpr size_t N_SEGMENT = 256;

    // shorter prompts are computed about as fast as they are read
    static constexpr size_t N_LEAST = 64;

    // n_slice_bytes: of a whole state, so many are copied at a time
    Saves(llama_context * ctx, Store & store, size_t n_slice_bytes);

    // what to say if this memory cannot be taken out; "" if it can
    const std::string & why_not() const { return why_not_; }

    // A snapshot of these tokens. n_stored of them were in the store when a lookup of that number was done.
    void add(llama_seq_id             seq,
             std::vector<llama_token> tokens,
             const std::string &      name_space,
             size_t                   n_stored,
             uint64_t                 lookup);

    // it goes: what has not been copied is not kept
    void forget(llama_seq_id seq);

    // all go
    void clear() noexcept { saves_.clear(); }

    bool empty() const { return saves_.empty(); }

    bool has(llama_seq_id seq) const;

    // Snapshots are numbered as they are added. All up to a number have been copied, or have gone.
    uint64_t n_added() const { return n_added_; }
    bool     are_done(uint64_t n_added) const { return saves_.empty() || saves_.front().number > n_added; }

    // There is something to copy, and the store takes it.
    bool can_go_on() const;

    // copies the next few rows
    void go_on();

    // copies all of one snapshot, or of all of them, as far as the store takes it
    void go_on_with(llama_seq_id seq);
    void go_on_with_all();

  private:
    // so many rows at a time: what takes less than a hundredth of the time in which a token is decoded
    static constexpr size_t N_SLICE = 64;

    struct Save {
        uint64_t                 number;
        uint64_t                 lookup; // that did not find it
        llama_seq_id             seq;
        std::vector<llama_token> tokens;
        std::string              name_space;
        std::deque<Segment>      segments;     // that are missing, in their order
        Payload                  payload;      // of the first of them, as far as it is copied
        size_t                   n_copied = 0; // tokens of it; bytes, if it is whole
    };

    bool copy(Save & save);
    bool copy_whole(Save & save);
    void hand_over(Save & save);

    llama_context *  ctx_;
    llama_memory_t   memory_;
    Store &          store_;
    size_t           n_slice_bytes_;
    bool             whole_;
    std::string      why_not_;
    std::deque<Save> saves_; // by number
    uint64_t         n_added_ = 0;
};

} // namespace kvf
