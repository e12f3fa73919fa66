#include "scheduler/restores.h"

#include "llama-rows.h"
#include "store/saves.h"

#include <algorithm>

namespace kvf {

namespace {

// how long to wait for a disk's answer
constexpr double MS_TO_LOOK = 1000.0;
constexpr double MS_TO_READ = 5000.0;

// how long not to ask it again after that
constexpr double MS_TO_REST = 30000.0;

// computing fewer tokens takes about as long as a look at the disk
constexpr size_t N_WORTH = 32;

// a speed measured on fewer tokens is too inexact
constexpr size_t N_TOLD = 4096;

void follow(double & mean, double value) {
    constexpr double share_of_the_last = 0.25;
    mean                               = mean == 0.0 ? value : mean + share_of_the_last * (value - mean);
}

} // namespace

Restores::Restores(llama_context * ctx, Store & store)
    : ctx_(ctx),
      memory_(llama_get_memory(ctx)),
      store_(store),
      whole_(llama_memory_rows_kind(memory_, nullptr) == LLAMA_ROWS_WHOLE) {}

void Restores::look_up(Branch & branch) {
    const size_t n_max   = branch.tokens.size() - (branch.n_predict == 0 ? 0 : 1);
    const bool   is_slow = t_slow_ != Clock::time_point() && ms_between(t_slow_, Clock::now()) < MS_TO_REST;
    if (branch.share && n_max >= Saves::N_LEAST / 2 && !is_slow) {
        branch.lookup   = store_.look_up(branch.name_space, branch.tokens, n_max);
        branch.t_looked = Clock::now();
    }
}

bool Restores::is_looking(Branch & branch) {
    if (!branch.lookup || branch.lookup->done()) {
        return false;
    }
    if (ms_between(branch.t_looked, Clock::now()) < MS_TO_LOOK) {
        return true;
    }
    store_.is_slow();
    t_slow_ = Clock::now();
    branch.lookup.reset();
    return false;
}

size_t Restores::n_worth(const Branch & branch, size_t n) {
    if (!branch.lookup || !branch.lookup->done()) {
        return 0;
    }
    const size_t n_stored = std::min(branch.lookup->n(), branch.tokens.size() - (branch.n_predict == 0 ? 0 : 1));
    return n_stored >= n + N_WORTH && is_quicker() ? n_stored : 0;
}

// Compares the speeds that this process measured. A slow store is tried again after a while: it may have been busy.
bool Restores::is_quicker() {
    if (n_restored_ < N_TOLD || ms_computed_ == 0.0 || ms_restored_ < ms_computed_) {
        return true;
    }
    ms_restored_ *= 0.9;
    return false;
}

void Restores::begin(Branch & branch) {
    branch.reading   = store_.read(branch.lookup->pieces(), branch.n_cached);
    branch.t_reading = Clock::now();
    branch.t_read    = branch.t_reading;
    branch.n_read    = 0;
}

std::optional<Store::Reading::Block> Restores::next(Branch & branch) {
    switch (branch.reading->state()) {
        case Store::Reading::READY: {
            const auto now = Clock::now();
            branch.t_read  = now;
            return branch.reading->take();
        }
        case Store::Reading::ENDED:
            branch.reading.reset();
            return std::nullopt;
        case Store::Reading::READING:
            if (ms_between(branch.t_read, Clock::now()) >= MS_TO_READ) {
                store_.is_slow();
                branch.reading.reset();
            }
            return std::nullopt;
    }
    return std::nullopt;
}

size_t Restores::n_new(const Branch & branch, const Store::Reading::Block & block) {
    const size_t end = block.segment.begin + block.n;
    return end > branch.n_cached ? end - branch.n_cached : 0;
}

bool Restores::put(Branch & branch, const Store::Reading::Block & block) {
    const Segment & segment = block.segment;
    const size_t    n       = n_new(branch, block);
    if (segment.begin > branch.n_cached || n == 0) {
        return false; // a piece before it is missing
    }
    llama_synchronize(ctx_);
    const auto n_block = static_cast<uint32_t>(segment.tokens.size());
    const bool ok      = segment.is_whole
                             ? block.n == n_block && llama_memory_whole_set(memory_, branch.seq, n_block,
                                                                            block.payload.data.get(), block.payload.size)
                             : block.payload.size == llama_memory_rows_size(memory_, n_block) &&
                              llama_memory_rows_set(memory_, branch.seq, static_cast<llama_pos>(branch.n_cached),
                                                         static_cast<uint32_t>(n), block.payload.data.get(), n_block,
                                                         static_cast<uint32_t>(branch.n_cached - segment.begin));
    if (!ok) {
        return false;
    }
    const double ms = ms_between(branch.t_reading, Clock::now());
    branch.n_cached += n;
    branch.n_shared = std::max(branch.n_shared, branch.n_cached);
    branch.n_read += n;
    if (branch.usage.n_preempted == 0) { // later it is the same prompt once more
        branch.usage.n_restored = static_cast<uint32_t>(branch.n_read);
        branch.usage.t_restore  = ms;
    }
    n_restored_ += n;
    follow(ms_restored_, ms / static_cast<double>(branch.n_read));
    return true;
}

void Restores::computed(const std::vector<Rows> & rows, double ms) {
    size_t n_rows = 0;
    for (const Rows & r : rows) { // its branch may have ended
        if (!r.is_prefill) {
            return; // most of the time is not the prompts'
        }
        n_rows += r.n;
    }
    follow(ms_computed_, ms / static_cast<double>(n_rows));
}

} // namespace kvf
