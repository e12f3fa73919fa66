// The scheduler's part of a store: restores prefixes from it, and hands snapshots over to it.

#include "kvf_error.h"
#include "scheduler/scheduler.h"

#include <algorithm>
#include <chrono>

namespace kvf {

void Scheduler::open_store(std::shared_ptr<Store> store) {
    if (store_) {
        throw Error(KVF_ERROR_INVALID, "path: the engine has a store already");
    }
    auto saves = std::make_unique<Saves>(ctx_, *store, params_.n_save_bytes);
    if (!saves->why_not().empty()) {
        throw Error(KVF_ERROR_INVALID, "a store cannot keep what this model computes: " + saves->why_not());
    }
    auto                            restores  = std::make_unique<Restores>(ctx_, *store);
    const std::vector<llama_seq_id> snapshots = snapshots_.all();

    store_    = std::move(store);
    saves_    = std::move(saves);
    restores_ = std::move(restores);
    for (const llama_seq_id seq : snapshots) {
        save(seq, 0, 0);
    }
}

std::vector<Scheduler::Kept> Scheduler::kept() const {
    std::vector<Kept> out;
    for (const llama_seq_id seq : snapshots_.all()) {
        out.push_back({ seq, tree_.name_space(seq), tree_.tokens(seq), nullptr });
    }
    return out;
}

uint64_t Scheduler::save(const std::vector<Kept> & kept) {
    if (!saves_) {
        return 0;
    }
    const auto now = snapshots_.all();
    for (const Kept & one : kept) {
        const bool is_there = std::find(now.begin(), now.end(), one.seq) != now.end() &&
                              tree_.tokens(one.seq) == one.tokens && tree_.name_space(one.seq) == one.name_space;
        if (is_there && !saves_->has(one.seq)) {
            save(one.seq, one.lookup->n(), one.lookup->number());
        }
    }
    return saves_->n_added();
}

void Scheduler::close_store() {
    if (!store_) {
        return;
    }
    while (is_saving()) {
        saves_->go_on_with_all();
        if (is_saving() && !store_->finish()) {
            return; // the disk does not go on
        }
    }
    store_->finish();
}

// Saves a snapshot, of which a lookup of this number found n_stored tokens in the store.
void Scheduler::save(llama_seq_id snapshot, size_t n_stored, uint64_t lookup) {
    if (saves_) {
        saves_->add(snapshot, tree_.tokens(snapshot), tree_.name_space(snapshot), n_stored, lookup);
    }
}

// Puts blocks that were read into the memory: one per step while others decode. True if there was one.
bool Scheduler::restore(std::vector<Event> & out) {
    bool some = false;
    bool others_decode =
        std::any_of(running_.begin(), running_.end(), [](const auto & entry) { return entry.second->decodes(); });

    for (auto it = started_.begin(); it != started_.end() && !(some && others_decode);) {
        Branch & branch = *(it++)->second; // it may end below
        if (!branch.reading) {
            continue;
        }
        while (!(some && others_decode)) {
            const auto block = restores_->next(branch);
            if (!block) {
                break;
            }
            const size_t n = Restores::n_new(branch, *block);
            if (!make_room(room_.need(branch.seq, n), false, /* but = */ -1, /* last_resort = */ running_.size() < 2) ||
                !restores_->put(branch, *block)) {
                branch.reading.reset(); // the rest is computed
                break;
            }
            some = true;
            stats_.restored_tokens += n;
            stats_.cells_used_max = std::max(stats_.cells_used_max, static_cast<uint32_t>(room_.n_used()));
            out.push_back(make_progress(branch, branch.n_cached));
            if (branch.n_pending() == 0) { // a prefill
                finish(branch, KVF_FINISH_PREFILLED, out);
                break;
            }
        }
    }
    return some;
}

} // namespace kvf
