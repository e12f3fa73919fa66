#pragma once

#include <chrono>
#include <functional>
#include <memory>

namespace kvf {

// A thread that does one thing after the other, beside the engine's own. What it does may take forever, on a disk that does
// not answer: then it is left alone.
class Worker {
  public:
    Worker();

    // stops after what it is doing, if that ends within a second
    ~Worker();

    // What is done must not throw, and must outlive everything else that it needs.
    void post(std::function<void()> work);

    // Waits until all is done that was posted until now; false if nothing came to its end for so long.
    bool finish(std::chrono::milliseconds patience);

  private:
    struct State;

    static void run(State & state);

    std::shared_ptr<State> state_;
};

} // namespace kvf
