#include "scheduler/waiting.h"

#include <cstdint>

namespace kvf {

void Waiting::add(Branch & branch) {
    all_[branch.id] = &branch;
    try {
        ready_[branch.id] = &branch;
    } catch (...) {
        all_.erase(branch.id);
        throw;
    }
}

void Waiting::clear() noexcept {
    all_.clear();
    ready_.clear();
}

void Waiting::remove(Branch & branch) {
    all_.erase(branch.id);
    ready_.erase(branch.id);
    if (branch.owner) {
        branch.owner->waiters.erase({ branch.n_awaited, branch.id });
        branch.owner = nullptr;
    }
}

void Waiting::wait_for(Branch & branch, Branch & owner, size_t n) {
    owner.fork_points.insert(n);
    owner.waiters.insert({ n, branch.id });
    branch.owner     = &owner;
    branch.n_awaited = n;
    ready_.erase(branch.id);
}

void Waiting::advance(Branch & owner) {
    wake(owner, owner.n_cached);
}

void Waiting::wake(Branch & owner) {
    wake(owner, SIZE_MAX);
}

// those that wait for at most n of the owner's tokens
void Waiting::wake(Branch & owner, size_t n) {
    while (!owner.waiters.empty() && owner.waiters.begin()->first <= n) {
        Branch & branch   = *all_.at(owner.waiters.begin()->second);
        ready_[branch.id] = &branch; // it fails here, or not at all
        branch.owner      = nullptr;
        owner.waiters.erase(owner.waiters.begin());
    }
}

} // namespace kvf
