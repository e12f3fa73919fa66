#pragma once

#include "llama.h"
#include "scheduler/batch.h"
#include "scheduler/branch.h"
#include "store/store.h"

#include <cstddef>
#include <optional>
#include <vector>

namespace kvf {

// Restores prefixes from a store: looks a prompt up when its branch is submitted, reads when the branch starts, and appends
// the blocks to its sequence as if they had been computed.
class Restores {
  public:
    Restores(llama_context * ctx, Store & store);

    // looks up how much of its prompt the store has
    void look_up(Branch & branch);

    // whether the lookup is still under way; no branch waits for it for long
    bool is_looking(Branch & branch);

    // How many of a branch's tokens the store has, if reading them is worth it beside n that are in cells; else 0.
    size_t n_worth(const Branch & branch, size_t n);

    // whether it can be put into an empty sequence only
    bool whole() const { return whole_; }

    // starts reading for a branch whose sequence has n_cached tokens
    void begin(Branch & branch);

    // The next block for a branch, if it has been read. After the last one, the branch is not reading any more.
    std::optional<Store::Reading::Block> next(Branch & branch);

    // the tokens of a block that the branch's sequence lacks
    static size_t n_new(const Branch & branch, const Store::Reading::Block & block);

    // Appends them; false if there is no room.
    bool put(Branch & branch, const Store::Reading::Block & block);

    // notes how long a step with these rows took
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
