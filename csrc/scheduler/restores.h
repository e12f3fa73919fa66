#pragma once

#include "llama.h"
#include "scheduler/batch.h"
#include "scheduler/branch.h"
#include "store/store.h"

#include <cstddef>
#include <optional>
#include <vector>

namespace kvf {

// Brings what a store has of prompts into the memory: looks when a branch comes, reads when it starts, and puts what was read
// behind what is there, block by block, as if it had been computed.
class Restores {
  public:
    Restores(llama_context * ctx, Store & store);

    // how far its prompt is in the store
    void look_up(Branch & branch);

    // It has not been found out yet. No branch waits for long.
    bool is_looking(Branch & branch);

    // The tokens of a branch that the store has, if it is worth it to read them where n are there already; else 0.
    size_t n_worth(const Branch & branch, size_t n);

    // it can only be put into an empty sequence
    bool whole() const { return whole_; }

    // begins to read, for a branch that has its sequence, and n_cached tokens in it
    void begin(Branch & branch);

    // The next block that was read for a branch, if it is there. If there will be no more, the branch is not reading any more.
    std::optional<Store::Reading::Block> next(Branch & branch);

    // The tokens of a block that a branch has not in the memory.
    static size_t n_new(const Branch & branch, const Store::Reading::Block & block);

    // Puts them there; false if there is no room.
    bool put(Branch & branch, const Store::Reading::Block & block);

    // These rows have been computed in a step; it took so long.
    void computed(const std::vector<Rows> & rows, double ms);

  private:
    bool is_quicker();

    llama_context *   ctx_;
    llama_memory_t    memory_;
    Store &           store_;
    bool              whole_;
    Clock::time_point t_slow_; // when the disk last did not answer in time

    // the speeds that were seen, in milliseconds per token; 0: none
    double ms_computed_ = 0.0;
    double ms_restored_ = 0.0;
    size_t n_restored_  = 0;
};

} // namespace kvf
