#pragma once

#include <chrono>
#include <functional>
#include <memory>

namespace kvf {

// A thread that does one piece of work after the other. Work may never end, on a disk that does not answer; then the thread
// is abandoned.
class Worker {
  public:
    Worker();

    // waits up to a second for the work that is under way
    ~Worker();

    // The work must own everything it needs.
    void post(std::function<void()> work);

    // Waits until everything posted so far is done; false if no work has ended for so long.
    bool finish(std::chrono::milliseconds patience);

  private:
    struct State;

    static void run(State & state);

    std::shared_ptr<State> state_;
};

} // namespace kvf
