#pragma once

#include "kvfork.h"
#include "store/store.h"
#include "text/text_stream.h"

#include "sampling.h"

#include <chrono>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace kvf {

using Clock = std::chrono::steady_clock;

inline double ms_between(Clock::time_point from, Clock::time_point to) {
    return std::chrono::duration<double, std::milli>(to - from).count();
}

// One generation: what it was asked, what it has said, how far the cache knows it.
//
// Prefill and decode are one thing here: a running branch has tokens that are not cached yet, and when the last of them
// is computed, the next is sampled. A branch that was preempted or forked off has many such tokens again, that is all.
struct Branch {
    kvf_branch_id id = 0;

    int32_t                n_predict  = -1;
    int32_t                n_logprobs = -1;
    bool                   share      = true;
    common_params_sampling sampling;
    common_sampler_ptr     sampler;
    TextStream             text;

    std::vector<llama_token> tokens;         // the prompt, then what was generated
    size_t                   n_prompt   = 0; // of tokens; those that it began with, of a fork all that its parent had
    size_t                   n_known    = 0; // of tokens; those that it had when it got its sequence
    size_t                   n_cached   = 0; // of tokens; all but the last while it decodes
    size_t                   n_reached  = 0; // of tokens; the most that were in the cache before it had to give them up
    size_t                   n_given_up = 0; // while it waits: the cells that it had for itself when it gave them up,
    size_t                   n_missed   = 0; // and the tokens that it would have generated since
    llama_seq_id             seq        = -1; // -1: it waits

    std::string name_space; // whose prefixes it shares
    kvf_keep    keep     = KVF_KEEP_ALL;
    size_t      n_shared = 0; // of tokens; those that came with a fork or from the store, or that others forked

    // where there is a store: how far it has the tokens, and what is being read of them
    std::shared_ptr<Store::Lookup>  lookup;
    std::unique_ptr<Store::Reading> reading;
    Clock::time_point               t_looked;
    Clock::time_point               t_reading;  // since when,
    Clock::time_point               t_read;     // and when something came last
    size_t                          n_read = 0; // tokens that have come since then

    // the runs that its prefix is kept for when it has become a snapshot
    std::vector<kvf_run_id> runs;

    // while it waits: for another branch to have computed a prefix that both share; null: it waits for room
    Branch * owner     = nullptr;
    size_t   n_awaited = 0;

    // while it waits: the progress that was last reported, and when
    size_t            n_reported = 0;
    Clock::time_point t_reported;

    // lengths at which others waited to fork it; a prefill pauses there
    std::set<size_t> fork_points;

    // while it runs: who waits for how much of it
    std::set<std::pair<size_t, kvf_branch_id>> waiters;

    kvf_usage         usage = {};
    Clock::time_point t_submitted;
    Clock::time_point t_admitted;
    Clock::time_point t_first_token;
    Clock::time_point t_last_token;

    explicit Branch(TextStream text) : text(std::move(text)) {}

    size_t n_pending() const { return tokens.size() - n_cached; }

    // its next row is a token that it has sampled since it got its sequence
    bool decodes() const { return n_cached >= n_known; }
};

using Branches = std::map<kvf_branch_id, std::unique_ptr<Branch>>; // in the order of their arrival

using Started = std::map<kvf_branch_id, Branch *>; // those that have a sequence, likewise

// Checks a request and makes a branch of it, which is submitted now, to a context of n_ctx tokens. Throws
// Error(KVF_ERROR_INVALID) that names the argument.
std::unique_ptr<Branch> make_branch(const llama_model * model,
                                    size_t              n_ctx,
                                    kvf_branch_id       id,
                                    const kvf_request & request);

// A branch that has all that another one has, and goes on from there; it has no sampler yet.
std::unique_ptr<Branch> forked(const Branch & from, kvf_branch_id id);

} // namespace kvf
