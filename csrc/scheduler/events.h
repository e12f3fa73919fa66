#pragma once

#include "kvfork.h"

#include <condition_variable>
#include <mutex>
#include <string>
#include <vector>

namespace kvf {

// what kvf_event says, with its memory
struct Event {
    kvf_event                head = {};
    std::string              text;
    std::vector<kvf_logprob> logprobs;
};

struct Branch;

// an event of a branch, with its counts so far
Event make_event(kvf_event_type type, const Branch & branch);
Event make_progress(const Branch & branch, size_t n_done); // tokens of its prompt, or a prefix of it, that are computed
Event make_failure(const Branch & branch, kvf_error error, const std::string & message);

// Hands events from the engine's thread to the one that polls, a step's at a time.
class EventQueue {
  public:
    // takes all events and leaves the vector empty; none if there is no memory for them, which it throws
    void push(std::vector<Event> & events);

    // no event will follow
    void close();

    // as kvf_poll
    int32_t poll(kvf_event * out, size_t n_max, int32_t timeout_ms);

  private:
    std::mutex              mutex_;
    std::condition_variable filled_;
    std::vector<Event>      queue_;
    bool                    closed_ = false;

    // of the poller alone: what it was given last, and how far
    std::vector<Event> taken_;
    size_t             i_taken_ = 0;
};

} // namespace kvf
