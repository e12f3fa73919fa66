#include "scheduler/scheduler.h"

#include "kvf_error.h"
#include "text/sampler.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>

namespace kvf {

Scheduler::Scheduler(llama_context * ctx, Params params)
    : params_(std::move(params)),
      ctx_(ctx),
      model_(llama_get_model(ctx)),
      vocab_(llama_model_get_vocab(model_)),
      n_ctx_(llama_n_ctx(ctx)),
      room_(ctx, params_.batch_invariant),
      sequences_(ctx, room_),
      snapshots_(tree_, sequences_.forks_anywhere(), params_.run_limit),
      batch_(llama_n_batch(ctx), params_.batch_invariant ? 0.0 : params_.max_gap_ms),
      checks_steps_(std::getenv("KVFORK_CHECK_STEPS") != nullptr) {}

Scheduler::~Scheduler() = default;

// ---------------------------------------------------------------------------------------------------------------------
// what callers want

void Scheduler::submit(std::unique_ptr<Branch> branch) {
    for (const kvf_run_id run : branch->runs) {
        snapshots_.begin_run(run);
    }
    if (restores_) {
        restores_->look_up(*branch);
    }
    begin(std::move(branch));
}

void Scheduler::begin(std::unique_ptr<Branch> branch) {
    const kvf_branch_id id    = branch->id;
    Branch &            added = *(branches_[id] = std::move(branch));
    try {
        waiting_.add(added);
    } catch (...) {
        branches_.erase(id);
        throw;
    }
}

void Scheduler::fork(kvf_branch_id parent, kvf_branch_id child, uint32_t seed, std::vector<Event> & out) {
    const auto it = branches_.find(parent);
    if (it == branches_.end()) {
        fail_unknown(child, KVF_ERROR_UNKNOWN,
                     "fork: branch " + std::to_string(parent) + " has ended; submit its tokens instead", out);
        return;
    }
    const Branch & from = *it->second;

    auto branch         = forked(from, child);
    branch->t_submitted = params_.now();
    try {
        if (from.sampler) {
            branch->sampler = clone_sampler(from.sampler.get(), seed);
        }
    } catch (const std::exception & e) {
        out.push_back(make_failure(*branch, KVF_ERROR_INTERNAL, std::string("fork: the sampler failed: ") + reason(e)));
        return;
    }
    begin(std::move(branch));
}

void Scheduler::cancel(kvf_branch_id id, std::vector<Event> & out) {
    const auto it = branches_.find(id);
    if (it != branches_.end()) {
        finish(*it->second, KVF_FINISH_CANCELLED, out);
    }
}

void Scheduler::end_run(kvf_run_id run) {
    snapshots_.end_run(run);
}

void Scheduler::fail_unknown(kvf_branch_id id, kvf_error error, const std::string & message, std::vector<Event> & out) {
    Branch branch{ TextStream({}) };
    branch.id = id;
    out.push_back(make_failure(branch, error, message));
}

void Scheduler::fail_all(kvf_error error, const std::string & message, std::vector<Event> & out) {
    while (!branches_.empty()) {
        fail(*branches_.begin()->second, error, message, out);
    }
}

void Scheduler::reset(kvf_error error, const std::string & message, std::vector<Event> & out) {
    if (saves_) {
        saves_->clear();
    }
    tree_.clear();
    snapshots_.clear();
    waiting_.clear();
    gave_way_.clear();
    started_.clear();
    running_.clear();
    sequences_.clear();
    for (const auto & [id, branch] : branches_) {
        branch->seq   = -1;
        branch->owner = nullptr;
        branch->waiters.clear();
        branch->reading.reset();
    }
    fail_all(error, message, out);
}

void Scheduler::clear() {
    while (snapshots_.size() > 0) {
        if (saves_) {
            saves_->go_on_with(snapshots_.any());
        }
        drop(snapshots_.any());
    }
    stats_.cells_used_max = static_cast<uint32_t>(room_.n_used());
}

kvf_stats Scheduler::stats() const {
    kvf_stats stats        = stats_;
    stats.cells_total      = static_cast<uint32_t>(room_.n_cells());
    stats.cells_used       = static_cast<uint32_t>(room_.n_used());
    stats.cells_used_max   = std::max(stats.cells_used_max, stats.cells_used);
    stats.branches_running = static_cast<uint32_t>(running_.size());
    stats.branches_waiting = static_cast<uint32_t>(branches_.size() - running_.size());
    stats.snapshots        = static_cast<uint32_t>(snapshots_.size());
    stats.snapshots_kept   = static_cast<uint32_t>(snapshots_.n_kept());
    for (const kvf_part & part : room_.parts()) {
        stats.parts[stats.n_parts++] = part;
    }
    return stats;
}

// ---------------------------------------------------------------------------------------------------------------------
// one batch

void Scheduler::step(std::vector<Event> & out) {
    take_step(out);
    if (checks_steps_) {
        const std::string wrong = fault();
        if (!wrong.empty()) {
            throw std::logic_error("after a step, " + wrong);
        }
    }
}

void Scheduler::take_step(std::vector<Event> & out) {
    note_runs();
    admit(out);

    const bool        restored = restores_ && restore(out);
    std::vector<Rows> rows     = compose();
    if (rows.empty()) {
        if (is_saving() && saves_->can_go_on()) {
            saves_->go_on();
        } else if (store_ && !restored && (!branches_.empty() || is_saving())) {
            store_->wait(std::chrono::milliseconds(2)); // it reads, or writes
        }
        return;
    }
    const auto start = params_.now();
    if (!compute(rows, out)) {
        return;
    }
    for (const Rows & r : rows) {
        Branch & branch = *r.branch; // it may end below
        if (r.is_prefill) {
            out.push_back(make_progress(branch, branch.n_cached));
        }
        if (r.i_logits >= 0) {
            sample(branch, r.i_logits, out);
        } else if (r.is_last) {
            finish(branch, KVF_FINISH_PREFILLED, out);
        }
    }
    const double ms = ms_between(start, params_.now());
    batch_.computed(rows, ms);
    if (restores_) {
        restores_->computed(rows, ms);
    }
    if (saves_) {
        saves_->go_on();
    }
    report_waiting(out);
}

// Computes rows and counts them. False if nothing was computed.
bool Scheduler::compute(std::vector<Rows> & rows, std::vector<Event> & out) {
    const int32_t status = llama_decode(ctx_, batch_.fill(rows));
    if (status == 1) { // it has the last word
        if (!room_.compact() && !batch_.take_fewer(rows) && !make_some_room()) {
            fail(*rows.front().branch, KVF_ERROR_OVERFLOW, "the cache has no room for the next tokens: raise n_ctx",
                 out);
        }
        return false;
    }
    if (status == 2) { // aborted: the engine is being closed and will end every branch
        is_aborted_ = true;
        return false;
    }
    if (status != 0) {
        for (const Rows & r : rows) {
            fail(*r.branch, KVF_ERROR_INTERNAL, "llama_decode failed with status " + std::to_string(status), out);
        }
        return false;
    }

    std::vector<llama_seq_id> seqs;
    for (const Rows & r : rows) {
        Branch & branch = *r.branch;
        seqs.push_back(branch.seq);
        if (r.is_prefill) {
            const size_t n_again = std::min(r.n, branch.n_reached - std::min(branch.n_reached, branch.n_cached));
            branch.usage.n_prefilled += static_cast<uint32_t>(r.n);
            branch.usage.n_recomputed += static_cast<uint32_t>(n_again);
            stats_.prefilled_tokens += r.n;
            stats_.recomputed_tokens += n_again;
        }
        branch.n_cached += r.n;
    }
    n_looked_at_ += rows.size() + gave_way_.size();
    ++stats_.steps;
    stats_.pages_read += room_.n_pages_read(seqs);
    stats_.cells_used_max = std::max(stats_.cells_used_max, static_cast<uint32_t>(room_.n_used()));
    for (const auto & [id, branch] : gave_way_) {
        const size_t n_generated = branch->usage.n_generated + branch->n_missed;
        branch->n_missed += branch->n_predict < 0 || n_generated < static_cast<size_t>(branch->n_predict);
    }
    if (!gave_way_.empty()) {
        want({});
    }
    return true;
}

// Runs with a branch live. They are noted often enough for that, not at each step: there may be thousands.
void Scheduler::note_runs() {
    constexpr int n_in_limit = 16;

    const auto now = Clock::now(); // as for snapshots
    if (now - t_noted_ < params_.run_limit / n_in_limit) {
        return;
    }
    t_noted_ = now;
    for (const auto & [id, branch] : branches_) {
        snapshots_.note_activity(branch->runs);
    }
    n_looked_at_ += branches_.size();
}

// Reports to waiting branches how far their prefix is, and otherwise now and then that others are being computed: nobody
// should take waiting for standing still. A step does so for some of them.
void Scheduler::report_waiting(std::vector<Event> & out) {
    constexpr double ms_between_words = 250;
    constexpr size_t n_most           = 64;

    const auto now = params_.now();
    waiting_.visit(n_most, [&](Branch & branch, size_t n_done) {
        ++n_looked_at_;
        if (n_done != branch.n_reported || ms_between(branch.t_reported, now) >= ms_between_words) {
            branch.n_reported = n_done;
            branch.t_reported = now;
            out.push_back(make_progress(branch, n_done));
        }
    });
}

// Gives waiting branches a sequence, oldest first, as long as there are sequences and room.
void Scheduler::admit(std::vector<Event> & out) {
    for (const auto & [id, branch] : started_) {
        waiting_.advance(*branch);
    }
    for (auto it = waiting_.ready().begin(); it != waiting_.ready().end() && running_.size() < batch_.n_max();) {
        Branch & branch = *(it++)->second; // it may end below
        ++n_looked_at_;
        if (restores_ && restores_->is_looking(branch)) {
            continue;
        }
        const Prefix prefix = branch.share ? find_prefix(branch) : Prefix();
        if (prefix.awaited) {
            waiting_.wait_for(branch, *prefix.awaited, prefix.n_awaited);
            continue;
        }
        snapshots_.use(prefix.seq);
        if (prefix.n == branch.tokens.size()) { // a prefill of what is there already
            keep_for(prefix.seq, branch.runs);
            count_start(branch);
            branch.usage.n_forked  = static_cast<uint32_t>(prefix.n);
            branch.usage.parent_id = branch_at(prefix.seq);
            stats_.forked_tokens += prefix.n;
            finish(branch, KVF_FINISH_PREFILLED, out);
            continue;
        }
        // of a whole sequence in the store, nothing can be there yet
        const bool is_better_stored = restores_ && restores_->whole() && restores_->n_worth(branch, prefix.n) > 0;
        // with nothing else running, all that can be in its way is the prefix's sequence
        if (!start(branch, is_better_stored ? Prefix() : prefix) && !(running_.empty() && start(branch, Prefix()))) {
            break;
        }
    }
}

// Gives one branch a sequence that begins with the prefix; false if it has to go on waiting.
bool Scheduler::start(Branch & branch, const Prefix & prefix) {
    Room::Need need = room_.need_of_fork(prefix.n, branch.tokens.size() - prefix.n);
    for (const auto & [running, other] : running_) {
        need += room_.need(running, other->n_pending());
    }
    const kvf_branch_id parent = branch_at(prefix.seq); // it may go below

    // each run keeps its longest prefix as long as there is something to wait for
    const bool     is_alone  = running_.empty();
    const uint64_t n_evicted = stats_.evictions;
    if (!make_room(need, sequences_.none_left(), /* but = */ prefix.seq, is_alone)) {
        if (!is_alone || (sequences_.none_left() && (prefix.n > 0 || !make_some_room()))) {
            return false;
        }
    }
    stats_.evictions_to_start += stats_.evictions - n_evicted;
    const llama_seq_id seq = sequences_.take();
    branch.seq             = seq; // and the branch gives it back, whatever comes
    waiting_.remove(branch);
    started_[branch.id] = &branch;
    running_[seq]       = &branch;

    const size_t n_forked = prefix.n > 0 && sequences_.fork(prefix.seq, seq, prefix.n) ? prefix.n : 0;
    if (n_forked > 0) {
        ++stats_.forks;
        stats_.forked_tokens += n_forked;
        keep_fork_point(branch, prefix.seq, n_forked);
        const auto runs = running_.find(prefix.seq);
        if (runs != running_.end()) {
            runs->second->n_shared = std::max(runs->second->n_shared, n_forked);
        }
        branch.n_shared = std::max(branch.n_shared, n_forked);
    }
    branch.n_cached = n_forked;
    branch.n_known  = branch.tokens.size();
    if (branch.share) {
        tree_.insert(seq, branch.tokens, branch.name_space);
    }
    if (restores_ && restores_->n_worth(branch, n_forked) > 0) {
        restores_->begin(branch);
    }
    gave_way_.erase(branch.id);
    branch.n_given_up = 0;
    branch.n_missed   = 0;
    if (branch.usage.n_preempted == 0) {
        count_start(branch);
        branch.usage.n_forked  = static_cast<uint32_t>(n_forked);
        branch.usage.parent_id = n_forked > 0 ? parent : 0;
    }
    return true;
}

void Scheduler::count_start(Branch & branch) {
    branch.t_admitted   = params_.now();
    const double t_wait = ms_between(branch.t_submitted, branch.t_admitted);
    ++stats_.branches_started;
    stats_.wait_ms += t_wait;
    stats_.wait_ms_max = std::max(stats_.wait_ms_max, t_wait);
}

// Where memory cannot be forked at every position, a running branch soon moves past the one where it was just forked:
// keeps a snapshot of it for those who come later.
void Scheduler::keep_fork_point(const Branch & branch, llama_seq_id src, size_t n) {
    const auto runs = running_.find(src);
    if (sequences_.forks_anywhere() || runs == running_.end() || runs->second->keep == KVF_KEEP_NONE) {
        return;
    }
    const llama_seq_id seq = sequences_.take();
    if (seq < 0) {
        return; // it would only be a convenience
    }
    try {
        if (!sequences_.keep(src, seq, n)) {
            sequences_.give_back(seq);
            return;
        }
        tree_.insert(seq, { branch.tokens.begin(), branch.tokens.begin() + n }, branch.name_space);
        snapshots_.add(seq, runs->second->id, n, branch.runs);
        save(seq, 0, 0);
    } catch (...) { // there is no memory for it
        drop(seq);
        throw;
    }
}

// The longest beginning of a branch's tokens that some sequence has in the cache, and whether a running branch is about
// to have a longer one. The last token of a branch that generates is never taken: its logits are needed.
Scheduler::Prefix Scheduler::find_prefix(const Branch & branch) {
    const size_t n_max = branch.tokens.size() - (branch.n_predict == 0 ? 0 : 1);

    Prefix prefix;
    tree_.match(
        branch.tokens, n_max,
        [&](llama_seq_id seq, size_t n_common) {
            if (n_common <= prefix.n) {
                return false;
            }
            const auto   runs    = running_.find(seq);
            const size_t n_ready = runs == running_.end() ? n_common : std::min(n_common, runs->second->n_cached);
            const size_t n       = sequences_.forkable(seq, n_ready);
            if (n > prefix.n) {
                prefix.seq = seq;
                prefix.n   = n;
            }
            if (n_ready < n_common && n_common > prefix.n_awaited) {
                prefix.awaited   = runs->second;
                prefix.n_awaited = n_common;
            }
            return true;
        },
        branch.name_space);
    if (prefix.n_awaited <= prefix.n) {
        prefix.awaited = nullptr;
    }
    return prefix;
}

// The next batch's rows, after whatever had to give way for them.
std::vector<Rows> Scheduler::compose() {
    for (;;) {
        std::vector<Rows> rows = batch_.plan(started_);
        Room::Need        need;
        for (const Rows & r : rows) {
            need += room_.need(r.branch->seq, r.n);
        }
        const bool is_alone = running_.size() < 2; // then llama_decode has the last word
        if (make_room(need, false, /* but = */ -1, /* last_resort = */ is_alone) || is_alone) {
            return rows;
        }
        if (!batch_.take_fewer(rows)) {
            want(need);
            preempt_youngest();
        }
    }
}

void Scheduler::sample(Branch & branch, int32_t i_logits, std::vector<Event> & out) {
    kvf_finish reason = KVF_FINISH_NONE;
    try {
        reason = add_token(branch, i_logits, out);
    } catch (const Error & e) {
        fail(branch, e.kind, e.what(), out);
        return;
    } catch (const std::exception & e) {
        fail(branch, KVF_ERROR_INTERNAL, std::string("sampling failed: ") + kvf::reason(e), out);
        return;
    }
    if (reason != KVF_FINISH_NONE) {
        finish(branch, reason, out);
    }
}

// A branch's next token, and the event that shows it. Returns why it is the last one, if it is. What it throws is this
// branch's alone.
kvf_finish Scheduler::add_token(Branch & branch, int32_t i_logits, std::vector<Event> & out) {
    const float * logits  = llama_get_logits_ith(ctx_, i_logits);
    const int32_t n_vocab = llama_vocab_n_tokens(vocab_);
    llama_token   token   = most_likely(branch.sampling, logits, n_vocab);
    if (token == LLAMA_TOKEN_NULL) {
        token = choose_of_few(branch.sampler.get(), branch.sampling, logits, n_vocab);
    }
    if (token == LLAMA_TOKEN_NULL) {
        token = choose(branch.sampler.get(), ctx_, i_logits);
    }
    common_sampler_accept(branch.sampler.get(), token, /* is_generated = */ true);

    const auto now = params_.now();
    if (branch.usage.n_generated++ == 0) {
        branch.t_first_token = now;
    } else {
        branch.usage.t_gap = std::max(branch.usage.t_gap, ms_between(branch.t_last_token, now));
        stats_.gap_ms_max  = std::max(stats_.gap_ms_max, branch.usage.t_gap);
    }
    branch.t_last_token = now;
    ++stats_.generated_tokens;
    branch.tokens.push_back(token);
    if (branch.share) {
        tree_.append(branch.seq, token);
    }

    const bool is_eog   = llama_vocab_is_eog(vocab_, token);
    Event      event    = make_event(KVF_EVENT_TOKEN, branch);
    event.head.token    = token;
    const bool is_shown = branch.sampling.preserved_tokens.count(token) > 0;
    if (!is_eog || is_shown) {
        event.text = branch.text.push(common_token_to_piece(vocab_, token, /* special = */ is_shown));
    }
    if (!is_eog && branch.n_logprobs >= 0) {
        event.logprobs = logprobs(logits, n_vocab, token, branch.n_logprobs);
    }

    kvf_finish reason = KVF_FINISH_NONE;
    if (is_eog || branch.text.stopped()) {
        reason = KVF_FINISH_STOP;
    } else if (branch.usage.n_generated == static_cast<uint32_t>(branch.n_predict) || branch.tokens.size() > n_ctx_) {
        reason = KVF_FINISH_LENGTH;
    }
    if (reason != KVF_FINISH_NONE) {
        event.text += branch.text.flush();
    }
    if (!is_eog || !event.text.empty()) {
        out.push_back(std::move(event));
    }
    return reason;
}

// ---------------------------------------------------------------------------------------------------------------------
// ends

void Scheduler::finish(Branch & branch, kvf_finish reason, std::vector<Event> & out) {
    Event event       = make_event(KVF_EVENT_DONE, branch);
    event.head.finish = reason;
    end(branch, std::move(event), out);
}

void Scheduler::fail(Branch & branch, kvf_error error, const std::string & message, std::vector<Event> & out) {
    if (branch.seq >= 0) { // what it has computed is not to be trusted
        release(branch);
    }
    end(branch, make_failure(branch, error, message), out);
}

// How many of a branch's tokens stay, now that it ends: the rest goes.
size_t Scheduler::n_kept(const Branch & branch) {
    if (!branch.share || branch.keep == KVF_KEEP_NONE) {
        return 0;
    }
    const size_t n = branch.keep == KVF_KEEP_ALL ? branch.n_cached : std::min(branch.n_cached, branch.n_shared);
    if (n == branch.n_cached || n == 0) {
        return n;
    }
    // what others have for good need not stay twice
    const auto stays = [&](llama_seq_id seq) {
        const auto it = running_.find(seq);
        return it == running_.end() || (it->second->n_cached >= n && it->second->keep != KVF_KEEP_NONE &&
                                        (it->second->keep == KVF_KEEP_ALL || it->second->n_shared >= n));
    };
    return tree_.nearest(branch.seq, stays).n_common >= n || !sequences_.cut(branch.seq, n) ? 0 : n;
}

// Leaves what the branch has computed behind as a snapshot, says the last event, and forgets the branch. Where memory is
// short it throws before the event, and can be called again.
void Scheduler::end(Branch & branch, Event event, std::vector<Event> & out) {
    if (out.size() == out.capacity()) {
        out.reserve(2 * out.size() + 1);
    }
    snapshots_.note_activity(branch.runs);
    if (branch.seq >= 0) {
        const size_t n = n_kept(branch);
        if (n > 0) {
            tree_.truncate(branch.seq, n);
            snapshots_.add(branch.seq, branch.id, n, branch.runs);
            const bool was_found = branch.lookup && branch.lookup->done();
            save(branch.seq, was_found ? branch.lookup->n() : 0, was_found ? branch.lookup->number() : 0);
            leave(branch);
        } else {
            release(branch);
        }
    }
    waiting_.wake(branch);

    const auto now          = params_.now();
    auto &     u            = event.head.usage;
    const bool was_admitted = branch.t_admitted != Clock::time_point();
    u.t_wait                = ms_between(branch.t_submitted, was_admitted ? branch.t_admitted : now);
    u.t_prefill = was_admitted ? ms_between(branch.t_admitted, u.n_generated ? branch.t_first_token : now) : 0.0;
    u.t_decode  = u.n_generated ? ms_between(branch.t_first_token, now) : 0.0;

    out.push_back(std::move(event));
    waiting_.remove(branch);
    gave_way_.erase(branch.id);
    branches_.erase(branch.id);
}

} // namespace kvf
