#include "scheduler/events.h"

#include "scheduler/branch.h"

#include <algorithm>
#include <chrono>
#include <iterator>

namespace kvf {

Event make_event(kvf_event_type type, const Branch & branch) {
    Event event;
    event.head.branch_id = branch.id;
    event.head.type      = type;
    event.head.usage     = branch.usage;
    return event;
}

Event make_progress(const Branch & branch, size_t n_done) {
    Event event       = make_event(KVF_EVENT_PREFILL, branch);
    event.head.n_done = static_cast<uint32_t>(std::min(n_done, branch.n_prompt)); // the rest is its text
    return event;
}

Event make_failure(const Branch & branch, kvf_error error, const std::string & message) {
    Event event       = make_event(KVF_EVENT_DONE, branch);
    event.head.finish = KVF_FINISH_ERROR;
    event.head.error  = error;
    event.text        = message;
    return event;
}

void EventQueue::push(std::vector<Event> & events) {
    if (events.empty()) {
        return;
    }
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        const size_t                      n = queue_.size() + events.size();
        if (n > queue_.capacity()) {
            queue_.reserve(std::max(n, 2 * queue_.capacity())); // it fails here, or not at all
        }
        std::move(events.begin(), events.end(), std::back_inserter(queue_));
    }
    events.clear();
    filled_.notify_one();
}

void EventQueue::close() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        closed_ = true;
    }
    filled_.notify_one();
}

int32_t EventQueue::poll(kvf_event * out, size_t n_max, int32_t timeout_ms) {
    if (i_taken_ == taken_.size()) {
        taken_.clear();
        i_taken_ = 0;

        std::unique_lock<std::mutex> lock(mutex_);
        const auto                   ready = [this] { return closed_ || !queue_.empty(); };
        if (timeout_ms < 0) {
            filled_.wait(lock, ready);
        } else {
            filled_.wait_for(lock, std::chrono::milliseconds(timeout_ms), ready);
        }
        if (queue_.empty()) {
            return closed_ ? -1 : 0;
        }
        std::swap(taken_, queue_);
    }

    const size_t n = std::min(n_max, taken_.size() - i_taken_);
    for (size_t i = 0; i < n; ++i) {
        const Event & event = taken_[i_taken_ + i];
        out[i]              = event.head;
        out[i].text         = event.text.data();
        out[i].n_text       = event.text.size();
        out[i].logprobs     = event.logprobs.empty() ? nullptr : event.logprobs.data();
        out[i].n_logprobs   = event.logprobs.size();
    }
    i_taken_ += n;
    return static_cast<int32_t>(n);
}

} // namespace kvf
