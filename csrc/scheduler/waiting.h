#pragma once

#include "scheduler/branch.h"

#include <algorithm>
#include <cstddef>
#include <map>

namespace kvf {

// The branches that have no sequence, in the order of their arrival. Those that wait for room are ready to be tried; the
// others wait for a branch that is computing a prefix of theirs, and nobody looks at them until it is there. So a step costs
// the same however many wait.
class Waiting {
  public:
    using Ready = std::map<kvf_branch_id, Branch *>;

    // it waits for room
    void add(Branch & branch);

    // it does not wait any more; unknown ones are ignored
    void remove(Branch & branch);

    // forgets all
    void clear() noexcept;

    // a ready one waits until another branch has computed its first n tokens
    void wait_for(Branch & branch, Branch & owner, size_t n);

    // those that wait for no more than what the branch has computed are ready
    void advance(Branch & owner);

    // nobody waits for this branch any more: all of them are ready
    void wake(Branch & owner);

    const Ready & ready() const { return ready_; }

    // all of them, the ready ones among them
    const std::map<kvf_branch_id, Branch *> & all() const { return all_; }

    // calls visit(branch, tokens of its awaited prefix that are there) for up to n_max of them, others each time
    template <typename Visit>
    void visit(size_t n_max, const Visit & visit) {
        auto it = all_.upper_bound(last_visited_);
        for (size_t n = std::min(n_max, all_.size()); n > 0; --n) {
            if (it == all_.end()) {
                it = all_.begin();
            }
            Branch & branch = *it->second;
            last_visited_   = branch.id;
            visit(branch, branch.owner ? std::min(branch.n_awaited, branch.owner->n_cached) : 0);
            ++it;
        }
    }

  private:
    friend struct Tampering;

    void wake(Branch & owner, size_t n);

    std::map<kvf_branch_id, Branch *> all_;
    Ready                             ready_;
    kvf_branch_id                     last_visited_ = 0;
};

} // namespace kvf
