#include "store/worker.h"

#include <signal.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <thread>

namespace kvf {

struct Worker::State {
    std::mutex                        mutex;
    std::condition_variable           changed;
    std::deque<std::function<void()>> todo;
    uint64_t                          n_posted = 0;
    uint64_t                          n_done   = 0;
    bool                              ending   = false;
    bool                              running  = true;
};

Worker::Worker() : state_(std::make_shared<State>()) {
    // No signal is this thread's, above all not the one that a write gets behind a limit of file sizes.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
        std::thread([state = state_] { run(*state); }).detach();
    } catch (...) {
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Worker::~Worker() {
    std::unique_lock<std::mutex> lock(state_->mutex);
    state_->ending = true;
    state_->todo.clear();
    state_->changed.notify_all();
    state_->changed.wait_for(lock, std::chrono::seconds(1), [&] { return !state_->running; });
}

void Worker::post(std::function<void()> work) {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    state_->todo.push_back(std::move(work));
    ++state_->n_posted;
    state_->changed.notify_all();
}

bool Worker::finish(std::chrono::milliseconds patience) {
    std::unique_lock<std::mutex> lock(state_->mutex);
    const uint64_t               n_posted = state_->n_posted;
    while (state_->n_done < n_posted) {
        const uint64_t n_done = state_->n_done;
        if (!state_->changed.wait_for(lock, patience, [&] { return state_->n_done != n_done; })) {
            return false;
        }
    }
    return true;
}

void Worker::run(State & state) {
    std::unique_lock<std::mutex> lock(state.mutex);
    for (;;) {
        state.changed.wait(lock, [&] { return state.ending || !state.todo.empty(); });
        if (state.ending) {
            break;
        }
        {
            const std::function<void()> work = std::move(state.todo.front());
            state.todo.pop_front();
            lock.unlock();
            try {
                work();
            } catch (const std::exception &) {
                // There was no memory even to report a failure. Callers wait for a limited time only.
            }
        }
        lock.lock();
        ++state.n_done;
        state.changed.notify_all();
    }
    state.running = false;
    state.changed.notify_all();
}

} // namespace kvf
