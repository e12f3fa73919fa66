#pragma once

#include "cache/prefix_tree.h"
#include "scheduler/branch.h"

#include <cstddef>
#include <optional>
#include <unordered_map>
#include <vector>

namespace kvf {

// the runs of a list go into another, each once
void add_runs(std::vector<kvf_run_id> & to, const std::vector<kvf_run_id> & runs);

// What branches that have ended left behind, and in which order it goes when there is no room.
//
// A run (kvf_request::run_id) lives until kvf_end_run, or until no branch had it for a time limit. Snapshots of
// living runs are kept: they go after all others.
class Snapshots {
  public:
    // long enough for a person to answer or a tool to work, short enough to get over a run that nobody ends
    static constexpr Clock::duration RUN_LIMIT = std::chrono::minutes(10);

    struct Victim {
        llama_seq_id            seq;
        llama_seq_id            heir; // a sequence that has most of it, too; -1: what it is kept for is lost
        std::vector<kvf_run_id> runs; // that it is kept for
    };

    // The snapshots, but for one, in the order in which they make room: the least recently used one
    // 1. of those that no living run needs,
    // 2. of the tails: another sequence has most of it too, as a fan-out's branches have their trunk,
    // 3. of the others, but for the longest one of each run,
    // 4. and as a last resort, of the shortest of these (about: within a binary order of magnitude).
    // It drops none, but goes on as if those before had been dropped.
    class Line;

    // stands_in: a sequence that begins like a snapshot can be forked there just as well
    Snapshots(const PrefixTree & tree, bool stands_in, Clock::duration run_limit = RUN_LIMIT);

    // a sequence of the tree, and the runs that it is kept for
    void add(llama_seq_id seq, kvf_branch_id branch, size_t n_tokens, const std::vector<kvf_run_id> & runs);

    // unknown ones are ignored, by this and by what follows
    void erase(llama_seq_id seq);

    // forgets all of them, but no run
    void clear() noexcept { snapshots_.clear(); }

    // somebody starts from it
    void use(llama_seq_id seq);

    // it is kept for these runs too
    void keep_for(llama_seq_id seq, const std::vector<kvf_run_id> & runs);

    // the run lives
    void begin_run(kvf_run_id run);

    // these runs, if they live, do so for the whole time limit again
    void note_activity(const std::vector<kvf_run_id> & runs);

    void end_run(kvf_run_id run);

    Line line(llama_seq_id but, bool last_resort) const;

    // the branch that left it, 0 if there is no such snapshot
    kvf_branch_id branch_of(llama_seq_id seq) const;

    std::vector<llama_seq_id> all() const;

    // how long it was when it was added; 0 if there is no such snapshot
    size_t n_tokens(llama_seq_id seq) const;

    llama_seq_id any() const { return snapshots_.empty() ? -1 : snapshots_.begin()->first; }
    size_t       size() const { return snapshots_.size(); }
    size_t       n_kept() const;

  private:
    friend struct Tampering;

    struct Snapshot {
        kvf_branch_id           branch;
        size_t                  n_tokens;
        uint64_t                last_used;
        std::vector<kvf_run_id> runs;
    };

    bool                    lives(kvf_run_id run) const;
    std::vector<kvf_run_id> living(const std::vector<kvf_run_id> & runs) const;

    const PrefixTree &                                tree_;
    bool                                              stands_in_;
    Clock::duration                                   run_limit_;
    std::unordered_map<llama_seq_id, Snapshot>        snapshots_;
    std::unordered_map<kvf_run_id, Clock::time_point> runs_; // when a branch had them last
    uint64_t                                          n_uses_ = 0;
};

class Snapshots::Line {
  public:
    std::optional<Victim> next();

  private:
    friend class Snapshots;

    Line(const Snapshots & snapshots, llama_seq_id but, bool last_resort)
        : snapshots_(snapshots), left_(snapshots.snapshots_), but_(but), last_resort_(last_resort) {}

    const Snapshots &                          snapshots_;
    std::unordered_map<llama_seq_id, Snapshot> left_;
    llama_seq_id                               but_;
    bool                                       last_resort_;
};

} // namespace kvf
