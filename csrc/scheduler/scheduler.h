#pragma once

#include "cache/prefix_tree.h"
#include "cache/room.h"
#include "cache/sequences.h"
#include "cache/snapshots.h"
#include "scheduler/batch.h"
#include "scheduler/branch.h"
#include "scheduler/events.h"
#include "scheduler/restores.h"
#include "scheduler/waiting.h"
#include "store/saves.h"

#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

namespace kvf {

// Decides which branches run, what they start from, and who gives way when cells run out.
//
// A step admits waiting branches, computes one batch, and samples from it. A branch waits while it has no sequence: for
// room, or for another branch to have computed a prefix that both share. It runs from then on, and when it ends, its
// sequence stays as a snapshot, from which later branches start.
//
// The oldest branch always goes on: those that came later give way to it, so each one ends. A branch that gives way loses
// its cells, never its tokens. What fails in one branch ends that branch alone.
//
// Which rows a batch has is Batch's question, which snapshots go first is that of Snapshots, whether cells are there that
// of Room. Not thread-safe: the engine's thread owns it. Events are appended to the vector that each call is given.
class Scheduler {
  public:
    struct Params {
        bool            batch_invariant = false; // a branch computes the same whatever else is in the cache; see Room
        double          max_gap_ms      = 0.0;   // that those who decode are to wait for prompts; see Pace. 0: any time
        Clock::duration run_limit       = Snapshots::RUN_LIMIT;
        size_t          n_save_bytes    = size_t(1) << 20; // of a whole state that a step copies for the store

        std::function<Clock::time_point()> now = Clock::now;
    };

    explicit Scheduler(llama_context * ctx) : Scheduler(ctx, Params()) {}

    Scheduler(llama_context * ctx, Params params);
    ~Scheduler();

    // What throws, here and in fork(), has begun no branch, and changed nothing for others.
    void submit(std::unique_ptr<Branch> branch);

    // a new branch that goes on from where another one is; a seed of LLAMA_DEFAULT_SEED keeps its random state
    void fork(kvf_branch_id parent, kvf_branch_id child, uint32_t seed, std::vector<Event> & out);

    void cancel(kvf_branch_id id, std::vector<Event> & out);

    // what is kept for this run only is not kept any more
    void end_run(kvf_run_id run);

    // ends a branch that has not begun
    void fail_unknown(kvf_branch_id id, kvf_error error, const std::string & message, std::vector<Event> & out);

    // ends every branch; where memory is short it throws, and can be called again for those that are left
    void fail_all(kvf_error error, const std::string & message, std::vector<Event> & out);

    // After something else has thrown: nothing that was in the cache is trusted, so that all of it goes, with what the store
    // has not got of it, and every branch ends. As fail_all(), it can be called again.
    void reset(kvf_error error, const std::string & message, std::vector<Event> & out);

    // drops every snapshot
    void clear();

    // nothing to do
    bool idle() const { return branches_.empty() && !is_saving(); }

    // what it computes goes there, and what is there is not computed; throws Error(KVF_ERROR_INVALID) if that cannot be
    void open_store(std::shared_ptr<Store> store);

    // not all of the snapshots is in the store that ought to be
    bool is_saving() const { return saves_ && !saves_->empty(); }

    // A snapshot, and how much of it is in the store.
    struct Kept {
        llama_seq_id                   seq;
        std::string                    name_space;
        std::vector<llama_token>       tokens;
        std::shared_ptr<Store::Lookup> lookup;
    };

    std::vector<Kept> kept() const;

    // Hands to the store what it lacks of snapshots, by lookups that are done. Returns the number of the last one to be copied.
    uint64_t save(const std::vector<Kept> & kept);
    bool     has_saved(uint64_t n_added) const { return !saves_ || saves_->are_done(n_added); }

    // the last thing: all that is left of snapshots goes to the store, as far as its disk takes it
    void close_store();

    // one batch: admit, compose, llama_decode, sample. Where the environment variable KVFORK_CHECK_STEPS is set, it checks after
    // that what fault() checks, and throws std::logic_error if something is wrong
    void step(std::vector<Event> & out);

    // branches that the steps so far have looked at; of those that wait, few each time
    uint64_t n_looked_at() const { return n_looked_at_; }

    kvf_stats stats() const;

    // Compares what is known in several places: the sequence ids, the branches, the prefix tree, the snapshots, what is being
    // saved, and the cells and pages of the memory. Returns the first thing that does not fit, as a sentence; "" if all does. It
    // is for between two steps, and changes nothing.
    std::string fault() const;

  private:
    friend struct Tampering; // of tests: breaks what fault() has to find

    // what a branch can start from
    struct Prefix {
        llama_seq_id seq       = -1;      // to fork, at
        size_t       n         = 0;       // tokens; 0: nothing
        Branch *     awaited   = nullptr; // a branch that will have computed more of it, namely
        size_t       n_awaited = 0;       // tokens
    };

    struct Held;

    std::string fault_of_ids() const;
    std::string fault_of_branches() const;
    std::string fault_of_waiting() const;
    std::string fault_of_tree(const std::vector<Held> & held) const;
    std::string fault_of_saves() const;
    std::string fault_of_part(uint32_t i_part, const std::vector<Held> & held) const;
    std::string fault_of_memory(const std::vector<Held> & held) const;

    void              take_step(std::vector<Event> & out);
    void              note_runs();
    void              report_waiting(std::vector<Event> & out);
    void              admit(std::vector<Event> & out);
    bool              start(Branch & branch, const Prefix & prefix);
    void              count_start(Branch & branch);
    void              save(llama_seq_id snapshot, size_t n_stored, uint64_t lookup);
    bool              restore(std::vector<Event> & out);
    void              keep_fork_point(const Branch & branch, llama_seq_id src, size_t n);
    Prefix            find_prefix(const Branch & branch);
    std::vector<Rows> compose();
    bool              compute(std::vector<Rows> & rows, std::vector<Event> & out);
    void              sample(Branch & branch, int32_t i_logits, std::vector<Event> & out);
    kvf_finish        add_token(Branch & branch, int32_t i_logits, std::vector<Event> & out);

    bool          make_room(const Room::Need & need, bool for_sequence, llama_seq_id but, bool last_resort);
    bool          make_some_room();
    size_t        n_kept(const Branch & branch);
    void          evict(const Snapshots::Victim & victim);
    void          want(const Room::Need & need);
    void          preempt_youngest();
    void          keep_for(llama_seq_id seq, const std::vector<kvf_run_id> & runs);
    void          drop(llama_seq_id snapshot);
    void          preempt(Branch & branch);
    void          release(Branch & branch);
    void          leave(Branch & branch);
    void          begin(std::unique_ptr<Branch> branch);
    kvf_branch_id branch_at(llama_seq_id seq) const;

    void finish(Branch & branch, kvf_finish reason, std::vector<Event> & out);
    void fail(Branch & branch, kvf_error error, const std::string & message, std::vector<Event> & out);
    void end(Branch & branch, Event event, std::vector<Event> & out);

    Params              params_;
    llama_context *     ctx_;
    const llama_model * model_;
    const llama_vocab * vocab_;
    size_t              n_ctx_;

    std::shared_ptr<Store>    store_; // may be NULL, as those who use it
    std::unique_ptr<Saves>    saves_;
    std::unique_ptr<Restores> restores_;

    Room                                       room_;
    Sequences                                  sequences_;
    PrefixTree                                 tree_; // of running branches and snapshots that share
    Branches                                   branches_;
    Waiting                                    waiting_;
    Started                                    started_;
    std::unordered_map<llama_seq_id, Branch *> running_;  // the same by their sequences
    std::map<kvf_branch_id, Branch *>          gave_way_; // that wait to get back what they had
    Snapshots                                  snapshots_;
    Batch                                      batch_;
    kvf_stats                                  stats_ = {};
    Clock::time_point                          t_noted_;
    uint64_t                                   n_looked_at_ = 0;
    const bool                                 checks_steps_;
    bool                                       is_aborted_ = false; // and some of a batch may be in the cells
};

} // namespace kvf
