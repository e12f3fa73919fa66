// The scheduler's check of itself: what is known in several places has to be the same in all of them.

#include "scheduler/scheduler.h"

#include "llama-fork.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>

namespace kvf {

// A sequence that is in use, and what it has to be.
struct Scheduler::Held {
    llama_seq_id             seq;
    const Branch *           branch; // NULL: a snapshot
    bool                     shares; // it is in the tree
    std::vector<llama_token> tokens;
    size_t                   n_cached; // of them
    std::string              name_space;
};

namespace {

std::string name_of(llama_seq_id seq) {
    return "sequence " + std::to_string(seq);
}

std::string name_of(const Branch & branch) {
    return "branch " + std::to_string(branch.id);
}

std::string count_of(size_t n, const std::string & what) {
    return std::to_string(n) + " " + what;
}

size_t n_bits(const std::vector<uint64_t> & words) {
    size_t n = 0;
    for (uint64_t word : words) {
        for (; word; word &= word - 1) {
            ++n;
        }
    }
    return n;
}

} // namespace

std::string Scheduler::fault() const {
    if (is_aborted_) {
        return "";
    }
    for (const std::string & wrong : { fault_of_ids(), fault_of_branches(), fault_of_waiting(), fault_of_saves() }) {
        if (!wrong.empty()) {
            return wrong;
        }
    }
    std::vector<Held> held;
    for (const auto & [seq, branch] : running_) {
        held.push_back({ seq, branch, branch->share, branch->tokens, branch->n_cached, branch->name_space });
    }
    for (const llama_seq_id seq : snapshots_.all()) {
        if (!tree_.has(seq)) {
            return "snapshot " + name_of(seq) + " is not in the prefix tree";
        }
        std::vector<llama_token> tokens = tree_.tokens(seq);
        const size_t             n      = tokens.size();
        held.push_back({ seq, nullptr, true, std::move(tokens), n, tree_.name_space(seq) });
    }
    const std::string wrong = fault_of_tree(held);
    return wrong.empty() ? fault_of_memory(held) : wrong;
}

// Every id is free, a branch's, or a snapshot's, and only one of these.
std::string Scheduler::fault_of_ids() const {
    std::map<llama_seq_id, int> n_uses;
    for (const llama_seq_id seq : sequences_.free()) {
        if (++n_uses[seq] > 1) {
            return name_of(seq) + " was given back twice";
        }
    }
    for (const auto & [seq, branch] : running_) {
        if (++n_uses[seq] > 1) {
            return name_of(seq) + " of " + name_of(*branch) + " is free";
        }
    }
    for (const llama_seq_id seq : snapshots_.all()) {
        if (++n_uses[seq] > 1) {
            return name_of(seq) + " of a snapshot is free, or a branch's";
        }
    }
    const auto n_seqs = static_cast<llama_seq_id>(llama_n_seq_max(ctx_));
    for (llama_seq_id seq = 0; seq < n_seqs; ++seq) {
        if (n_uses.count(seq) == 0) {
            return name_of(seq) + " is lost: neither free, nor a branch's, nor a snapshot's";
        }
    }
    return n_uses.size() == static_cast<size_t>(n_seqs) ? "" : "a sequence id is not one of the context's";
}

// Every branch either runs and has a sequence, or waits and has none.
std::string Scheduler::fault_of_branches() const {
    for (const auto & [id, branch] : branches_) {
        const bool runs = branch->seq >= 0;
        const auto it   = running_.find(branch->seq);
        if (branch->id != id || runs != (it != running_.end() && it->second == branch.get()) ||
            runs != (started_.count(id) > 0) || runs == (waiting_.all().count(id) > 0)) {
            return name_of(*branch) + " is not in the lists that a " + (runs ? "running" : "waiting") +
                   " branch belongs to";
        }
        if (!branch->sampler && branch->n_predict != 0) {
            return name_of(*branch) + " has no sampler";
        }
        if (branch->n_cached > branch->tokens.size() || branch->n_prompt > branch->tokens.size() ||
            branch->n_shared > branch->tokens.size() || (!runs && branch->n_cached > 0)) {
            return name_of(*branch) + " counts more tokens than it has";
        }
        if (gave_way_.count(id) > 0 && runs) {
            return name_of(*branch) + " runs, and is listed among those that gave way";
        }
    }
    if (running_.size() != started_.size() || running_.size() + waiting_.all().size() != branches_.size()) {
        return "a branch that has ended is still listed";
    }
    for (const auto & [id, branch] : gave_way_) {
        if (branches_.count(id) == 0) {
            return "a branch that gave way has ended and is still listed";
        }
    }
    return "";
}

// Who waits for a prefix is known to whom it waits for, and to nobody else.
std::string Scheduler::fault_of_waiting() const {
    for (const auto & [id, branch] : waiting_.all()) {
        if ((waiting_.ready().count(id) > 0) == (branch->owner != nullptr)) {
            return name_of(*branch) + (branch->owner ? " waits for a prefix and is tried all the same"
                                                     : " waits for nobody and is never tried");
        }
        if (branch->owner) {
            const bool is_there = std::any_of(started_.begin(), started_.end(),
                                              [&](const auto & entry) { return entry.second == branch->owner; });
            if (!is_there || branch->owner->waiters.count({ branch->n_awaited, id }) == 0) {
                return name_of(*branch) + " waits for a branch that does not run, or does not know of it";
            }
        }
    }
    if (std::any_of(waiting_.ready().begin(), waiting_.ready().end(),
                    [&](const auto & entry) { return waiting_.all().count(entry.first) == 0; })) {
        return "a branch that does not wait is listed as ready";
    }
    for (const auto & [id, branch] : branches_) {
        for (const auto & [n, waiter] : branch->waiters) {
            const auto it = waiting_.all().find(waiter);
            if (it == waiting_.all().end() || it->second->owner != branch.get() || it->second->n_awaited != n) {
                return name_of(*branch) + " is to wake branch " + std::to_string(waiter) +
                       ", which does not wait for it";
            }
        }
    }
    return "";
}

// What is being saved is a snapshot, and that snapshot.
std::string Scheduler::fault_of_saves() const {
    std::string wrong;
    if (saves_) {
        saves_->visit([&](llama_seq_id seq, const std::vector<llama_token> & tokens, const std::string & name_space) {
            if (snapshots_.n_tokens(seq) == 0 || !tree_.has(seq) || tree_.tokens(seq) != tokens ||
                tree_.name_space(seq) != name_space) {
                wrong = name_of(seq) + " is being saved as a prefix that it is not";
            }
        });
    }
    return wrong;
}

// The tree has the running branches that share and the snapshots, with their tokens, in their namespaces.
std::string Scheduler::fault_of_tree(const std::vector<Held> & held) const {
    std::string wrong = tree_.fault();
    if (!wrong.empty()) {
        return "the prefix tree is damaged: " + wrong;
    }
    size_t n_sharing = 0;
    for (const Held & one : held) {
        n_sharing += one.shares;
        if (one.shares != tree_.has(one.seq)) {
            return name_of(one.seq) + (one.shares ? " is not in the prefix tree"
                                                  : " is in the prefix tree, though its branch does not share");
        }
        if (one.branch && one.shares &&
            (tree_.tokens(one.seq) != one.tokens || tree_.name_space(one.seq) != one.name_space)) {
            return name_of(one.seq) + " of " + name_of(*one.branch) +
                   " is in the prefix tree with other tokens, or in another namespace";
        }
        if (!one.branch && (one.tokens.empty() || snapshots_.n_tokens(one.seq) != one.tokens.size())) {
            return "snapshot " + name_of(one.seq) + " has " +
                   count_of(one.tokens.size(), "tokens in the prefix tree, ") + "not " +
                   std::to_string(snapshots_.n_tokens(one.seq));
        }
    }
    return n_sharing == tree_.n_seqs() ? "" : "the prefix tree has a sequence that nobody has";
}

// Each sequence holds the cells of its tokens; two share no more than the beginning that they have in common; and what is
// counted as used is what somebody holds.
std::string Scheduler::fault_of_part(uint32_t i_part, const std::vector<Held> & held) const {
    const llama_memory_t               memory  = llama_get_memory(ctx_);
    const llama_memory_part            part    = llama_memory_get_part(memory, i_part);
    const std::string                  where   = " in part " + std::to_string(i_part) + " of the memory";
    const size_t                       n_words = (part.n_cells + 63) / 64;
    std::vector<std::vector<uint64_t>> cells;
    std::vector<uint64_t>              all(n_words);
    for (const Held & one : held) {
        std::vector<uint64_t> & own = cells.emplace_back(n_words);
        llama_memory_part_seq_cells(memory, i_part, one.seq, own.data());

        const size_t n = n_bits(own);
        if (part.n_window == 0 ? n != one.n_cached : n > std::min<size_t>(one.n_cached, part.n_window)) {
            return name_of(one.seq) + " has " + count_of(one.n_cached, "computed tokens and holds ") +
                   count_of(n, "cells") + where;
        }
        if (room_.is_strict() && part.n_window == 0) {
            size_t i = 0;
            for (size_t cell = 0; cell < part.n_cells; ++cell) {
                if ((own[cell / 64] >> cell % 64 & 1) != 0 && cell % 64 != i++ % 64) {
                    return "a token of " + name_of(one.seq) +
                           " is in another place of its page than its position says" + where;
                }
            }
        }
        for (size_t w = 0; w < n_words; ++w) {
            all[w] |= own[w];
        }
    }
    for (size_t a = 0; a < held.size(); ++a) {
        for (size_t b = 0; b < a; ++b) {
            size_t n_common = 0;
            if (held[a].shares && held[b].shares && held[a].name_space == held[b].name_space) {
                const size_t n = std::min(held[a].n_cached, held[b].n_cached);
                while (n_common < n && held[a].tokens[n_common] == held[b].tokens[n_common]) {
                    ++n_common;
                }
            }
            std::vector<uint64_t> both(n_words);
            for (size_t w = 0; w < n_words; ++w) {
                both[w] = cells[a][w] & cells[b][w];
            }
            if (n_bits(both) > n_common) {
                return name_of(held[a].seq) + " and " + name_of(held[b].seq) + " share " +
                       count_of(n_bits(both), "cells, and begin with the same ") + count_of(n_common, "tokens") + where;
            }
        }
    }
    const size_t n_empty = std::count(all.begin(), all.end(), 0u);
    if (part.n_window == 0 ? part.n_cells_used != n_bits(all) : part.n_cells_used < n_bits(all)) {
        return count_of(part.n_cells_used, "cells are counted as used, and sequences hold ") +
               std::to_string(n_bits(all)) + where;
    }
    if (part.n_cells % 64 == 0 && (part.n_window == 0 ? part.n_runs_empty != n_empty : part.n_runs_empty > n_empty)) {
        return count_of(part.n_runs_empty, "pages are counted as empty, and ") +
               count_of(n_empty, "have no cell that a sequence holds") + where;
    }
    return "";
}

std::string Scheduler::fault_of_memory(const std::vector<Held> & held) const {
    const llama_memory_t memory = llama_get_memory(ctx_);
    for (const Held & one : held) {
        const llama_pos last = llama_memory_seq_pos_max(memory, one.seq);
        if (last + 1 != static_cast<llama_pos>(one.n_cached)) {
            return name_of(one.seq) + " has " + count_of(one.n_cached, "computed tokens, and in the memory ") +
                   std::to_string(last + 1);
        }
    }
    for (const llama_seq_id seq : sequences_.free()) {
        if (llama_memory_seq_pos_max(memory, seq) >= 0) {
            return name_of(seq) + " is free, and not empty";
        }
    }
    for (uint32_t i = 0; i < llama_memory_n_parts(memory); ++i) {
        const std::string wrong = fault_of_part(i, held);
        if (!wrong.empty()) {
            return wrong;
        }
    }
    return "";
}

} // namespace kvf
