// The scheduler's part of room: what has to go so that something fits, and who gives way.

#include "scheduler/scheduler.h"

#include <algorithm>
#include <optional>

namespace kvf {

// Drops the snapshots, but for one, that have to go so that something fits, and so that a sequence id is free. What runs
// keep to the last goes only as a last resort, and not for the sake of whole pages. False, and none goes, if it does not
// fit even then.
bool Scheduler::make_room(const Room::Need & need, bool for_sequence, llama_seq_id but, bool last_resort) {
    std::vector<llama_seq_id> spared;
    for (const auto & [seq, branch] : running_) {
        spared.push_back(seq);
    }
    if (but >= 0 && running_.count(but) == 0) {
        spared.push_back(but);
    }
    for (const bool is_last : { false, true }) {
        if (is_last && !last_resort) {
            break;
        }
        std::optional<Snapshots::Line> line;
        std::vector<Snapshots::Victim> victims;
        const auto                     next = [&]() -> llama_seq_id {
            if (!line) {
                line.emplace(snapshots_.line(but, is_last));
            }
            const auto victim = line->next();
            if (!victim) {
                return -1;
            }
            victims.push_back(*victim);
            return victim->seq;
        };
        if (room_.fits(need, for_sequence ? 1 : 0, !is_last, spared, next)) {
            for (const Snapshots::Victim & victim : victims) {
                evict(victim);
            }
            return true;
        }
    }
    return false;
}

// The counters promised room that llama_decode did not find: one snapshot goes, or the youngest branch has to wait. False
// if that is all there is.
bool Scheduler::make_some_room() {
    const bool is_alone = running_.size() < 2;
    if (const auto victim = snapshots_.line(/* but = */ -1, /* last_resort = */ is_alone).next()) {
        evict(*victim);
        return true;
    }
    if (is_alone) {
        return false;
    }
    preempt_youngest();
    return true;
}

void Scheduler::evict(const Snapshots::Victim & victim) {
    keep_for(victim.heir, victim.runs);
    if (saves_) {
        saves_->go_on_with(victim.seq);
    }
    drop(victim.seq);
    ++stats_.evictions;
}

// A sequence's prefix is needed by these runs too; -1 is none.
void Scheduler::keep_for(llama_seq_id seq, const std::vector<kvf_run_id> & runs) {
    const auto it = running_.find(seq);
    if (it == running_.end()) {
        snapshots_.keep_for(seq, runs);
    } else {
        add_runs(it->second->runs, runs);
    }
}

void Scheduler::drop(llama_seq_id snapshot) {
    if (saves_) {
        saves_->forget(snapshot);
    }
    tree_.erase(snapshot);
    sequences_.give_back(snapshot);
    snapshots_.erase(snapshot);
}

// What all who have started would have in the cache if none had given way, and those who did had gone on meanwhile.
void Scheduler::want(const Room::Need & need) {
    std::vector<llama_seq_id> seqs;
    for (const auto & [id, branch] : started_) {
        seqs.push_back(branch->seq);
    }
    size_t n_others = 0;
    for (const auto & [id, branch] : gave_way_) {
        const size_t n_cells = branch->n_given_up + branch->n_missed;
        n_others += (n_cells + LLAMA_PAGE_SIZE - 1) / LLAMA_PAGE_SIZE * LLAMA_PAGE_SIZE;
    }
    const auto n = static_cast<uint32_t>(room_.n_wanted(seqs, need) + n_others);
    for (const auto * some : { &started_, &gave_way_ }) {
        for (const auto & [id, branch] : *some) {
            branch->usage.n_cells_wanted = std::max(branch->usage.n_cells_wanted, n);
        }
    }
    stats_.cells_wanted_max = std::max(stats_.cells_wanted_max, n);
}

void Scheduler::preempt_youngest() {
    if (!started_.empty()) {
        preempt(*started_.rbegin()->second);
    }
}

// Takes a branch's cells away; it waits to compute them again and goes on as if nothing had been.
void Scheduler::preempt(Branch & branch) {
    branch.n_reached  = std::max(branch.n_reached, branch.n_cached);
    branch.n_given_up = llama_memory_seq_n_cells_own(llama_get_memory(ctx_), branch.seq);
    stats_.preempted_tokens += branch.n_given_up;
    ++branch.usage.n_preempted;
    ++stats_.preemptions;

    release(branch);
    branch.n_cached = 0; // its fork points stay: others may still wait for them
    waiting_.wake(branch);
    waiting_.add(branch);
    if (branch.n_given_up > 0) {
        gave_way_[branch.id] = &branch;
    }
}

// Takes a branch's sequence away, and what it has computed.
void Scheduler::release(Branch & branch) {
    tree_.erase(branch.seq);
    sequences_.give_back(branch.seq);
    leave(branch);
}

// The branch's sequence is not the branch's any more.
void Scheduler::leave(Branch & branch) {
    running_.erase(branch.seq);
    started_.erase(branch.id);
    branch.seq = -1;
    branch.reading.reset();
}

kvf_branch_id Scheduler::branch_at(llama_seq_id seq) const {
    const auto runs = running_.find(seq);
    if (runs != running_.end()) {
        return runs->second->id;
    }
    return snapshots_.branch_of(seq);
}

} // namespace kvf
