#include "cache/snapshots.h"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace kvf {

Snapshots::Snapshots(const PrefixTree & tree, bool stands_in, Clock::duration run_limit)
    : tree_(tree), stands_in_(stands_in), run_limit_(run_limit) {}

void Snapshots::add(llama_seq_id seq, kvf_branch_id branch, size_t n_tokens, const std::vector<kvf_run_id> & runs) {
    snapshots_[seq] = { branch, n_tokens, ++n_uses_, living(runs) };
}

void Snapshots::erase(llama_seq_id seq) {
    snapshots_.erase(seq);
}

void Snapshots::use(llama_seq_id seq) {
    const auto it = snapshots_.find(seq);
    if (it != snapshots_.end()) {
        it->second.last_used = ++n_uses_;
    }
}

void add_runs(std::vector<kvf_run_id> & to, const std::vector<kvf_run_id> & runs) {
    for (const kvf_run_id run : runs) {
        if (std::find(to.begin(), to.end(), run) == to.end()) {
            to.push_back(run);
        }
    }
}

void Snapshots::keep_for(llama_seq_id seq, const std::vector<kvf_run_id> & runs) {
    const auto it = snapshots_.find(seq);
    if (it == snapshots_.end()) {
        return;
    }
    it->second.runs = living(it->second.runs); // the ended ones go, or it would grow
    add_runs(it->second.runs, living(runs));
}

void Snapshots::begin_run(kvf_run_id run) {
    if (runs_.find(run) == runs_.end()) { // the moment to forget those that nobody ended
        for (auto it = runs_.begin(); it != runs_.end();) {
            it = lives(it->first) ? std::next(it) : runs_.erase(it);
        }
    }
    runs_[run] = Clock::now();
}

void Snapshots::note_activity(const std::vector<kvf_run_id> & runs) {
    for (const kvf_run_id run : runs) {
        const auto it = runs_.find(run);
        if (it != runs_.end()) {
            it->second = Clock::now();
        }
    }
}

void Snapshots::end_run(kvf_run_id run) {
    runs_.erase(run);
}

Snapshots::Line Snapshots::line(llama_seq_id but, bool last_resort) const {
    return { *this, but, last_resort };
}

std::optional<Snapshots::Victim> Snapshots::Line::next() {
    enum Rank { NOT_KEPT, TAIL, KEPT, LONGEST };

    struct Candidate {
        Victim           victim;
        const Snapshot * snapshot;
        Rank             rank;

        auto length() const { return std::make_tuple(snapshot->n_tokens, snapshot->last_used); }

        auto order() const {
            const int magnitude = rank == LONGEST ? std::ilogb(snapshot->n_tokens) : 0;
            return std::make_tuple(rank, magnitude, snapshot->last_used);
        }
    };

    const auto is_there = [&](llama_seq_id seq) {
        return left_.count(seq) > 0 || snapshots_.snapshots_.count(seq) == 0; // or it belongs to a running branch
    };

    std::vector<Candidate> candidates;
    candidates.reserve(left_.size());
    std::unordered_map<kvf_run_id, Candidate *> longest;
    for (const auto & [seq, snapshot] : left_) {
        candidates.push_back({ { seq, -1, snapshots_.living(snapshot.runs) }, &snapshot, NOT_KEPT });
        Candidate & candidate = candidates.back();
        if (candidate.victim.runs.empty()) {
            continue;
        }
        const PrefixTree::Neighbour next = snapshots_.tree_.nearest(seq, is_there);
        if (snapshots_.stands_in_ && 2 * next.n_common >= snapshot.n_tokens) {
            candidate.victim.heir = next.seq;
            candidate.rank        = TAIL;
            continue;
        }
        candidate.rank = KEPT;
        for (const kvf_run_id run : candidate.victim.runs) {
            Candidate *& found = longest[run];
            if (!found || found->length() < candidate.length()) {
                found = &candidate;
            }
        }
    }
    for (const auto & [run, candidate] : longest) {
        candidate->rank = LONGEST;
    }

    Candidate * first = nullptr;
    for (Candidate & candidate : candidates) {
        if (candidate.victim.seq != but_ && (last_resort_ || candidate.rank < LONGEST) &&
            (!first || candidate.order() < first->order())) {
            first = &candidate;
        }
    }
    if (!first) {
        return std::nullopt;
    }
    const auto heir = left_.find(first->victim.heir);
    if (heir != left_.end()) {
        add_runs(heir->second.runs, first->victim.runs);
    }
    left_.erase(first->victim.seq);
    return std::move(first->victim);
}

kvf_branch_id Snapshots::branch_of(llama_seq_id seq) const {
    const auto it = snapshots_.find(seq);
    return it == snapshots_.end() ? 0 : it->second.branch;
}

size_t Snapshots::n_tokens(llama_seq_id seq) const {
    const auto it = snapshots_.find(seq);
    return it == snapshots_.end() ? 0 : it->second.n_tokens;
}

std::vector<llama_seq_id> Snapshots::all() const {
    std::vector<llama_seq_id> seqs;
    for (const auto & [seq, snapshot] : snapshots_) {
        seqs.push_back(seq);
    }
    return seqs;
}

size_t Snapshots::n_kept() const {
    return std::count_if(snapshots_.begin(), snapshots_.end(),
                         [&](const auto & entry) { return !living(entry.second.runs).empty(); });
}

bool Snapshots::lives(kvf_run_id run) const {
    const auto it = runs_.find(run);
    return it != runs_.end() && Clock::now() - it->second < run_limit_;
}

std::vector<kvf_run_id> Snapshots::living(const std::vector<kvf_run_id> & runs) const {
    std::vector<kvf_run_id> out;
    std::copy_if(runs.begin(), runs.end(), std::back_inserter(out), [&](kvf_run_id run) { return lives(run); });
    return out;
}

} // namespace kvf
