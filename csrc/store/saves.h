#pragma once

#include "llama.h"
#include "store/store.h"

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

namespace kvf {

// Copies the rows of snapshots out of the memory for a store, a slice at a time, so that decoding branches hardly wait.
class Saves {
  public:
    // tokens in a file, where each token has rows of its own; a longer prompt adds files after the last whole one
    static constexpr size_t N_SEGMENT = 256;

    // shorter prompts are computed about as fast as they are read
    static constexpr size_t N_LEAST = 64;

    // n_slice_bytes: how much of a whole state is copied at a time
    Saves(llama_context * ctx, Store & store, size_t n_slice_bytes);

    // why this memory cannot be copied out, for people; "" if it can
    const std::string & why_not() const { return why_not_; }

    // Adds a snapshot of these tokens, of which a lookup of this number found n_stored in the store.
    void add(llama_seq_id             seq,
             std::vector<llama_token> tokens,
             const std::string &      name_space,
             size_t                   n_stored,
             uint64_t                 lookup);

    // forgets a snapshot that is dropped; what has not been copied yet is lost
    void forget(llama_seq_id seq);

    // forgets all of them
    void clear() noexcept { saves_.clear(); }

    bool empty() const { return saves_.empty(); }

    bool has(llama_seq_id seq) const;

    // calls visit(seq, tokens, name_space) for each snapshot that is not wholly copied yet
    template <typename Visit>
    void visit(const Visit & visit) const {
        for (const Save & save : saves_) {
            visit(save.seq, save.tokens, save.name_space);
        }
    }

    // Snapshots are numbered as they are added. Returns whether all up to a number have been copied or dropped.
    uint64_t n_added() const { return n_added_; }
    bool     are_done(uint64_t n_added) const { return saves_.empty() || saves_.front().number > n_added; }

    // whether there is something to copy that the store has room for
    bool can_go_on() const;

    // copies the next few rows
    void go_on();

    // copies all of one snapshot, or of all of them, as far as the store has room
    void go_on_with(llama_seq_id seq);
    void go_on_with_all();

  private:
    friend struct Tampering;

    // rows in a slice: copying them takes less than a hundredth of the time of a decoding step
    static constexpr size_t N_SLICE = 64;

    struct Save {
        uint64_t                 number;
        uint64_t                 lookup; // the lookup that did not find it
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
