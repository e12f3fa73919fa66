#pragma once

#include "context/thread_pool.h"
#include "scheduler/events.h"
#include "scheduler/scheduler.h"

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace kvf {

// Makes the constructors of engines fail from now on, also those that are under way.
void stop_loading();
bool loading_is_stopped();

// Whether this thread's llama_decode is being aborted: llama.cpp logs that as a failure, which it is not.
bool aborts_computation();

// One llama_context and the thread that owns it. Every public method may be called from any thread.
class Engine {
  public:
    Engine(const llama_model * model, llama_context_params params, bool batch_invariant, double max_gap_ms);
    ~Engine();

    kvf_branch_id submit(const kvf_request & request);
    kvf_branch_id fork(kvf_branch_id branch, uint32_t seed);
    void          cancel(kvf_branch_id branch);
    void          end_run(kvf_run_id run);
    void          clear();
    void          set_lora(llama_adapter_lora * lora, float scale);
    void          open_store(const std::string & path,
                             uint64_t            max_bytes,
                             const std::string & weights,
                             const std::string & name);
    void          save();
    void          check_integrity();
    void          hold(bool held);
    bool          step();
    std::string   stored(const std::string & name_space, const std::vector<llama_token> & tokens) const;
    std::string   take_store_fault();
    void          close();
    kvf_stats     stats() const;
    int32_t       poll(kvf_event * out, size_t n_max, int32_t timeout_ms);

  private:
    struct ContextDeleter {
        void operator()(llama_context * ctx) const { llama_free(ctx); }
    };
    struct Command {
        std::function<void(Scheduler & scheduler, std::vector<Event> & out)> work;
        kvf_branch_id begins = 0; // whose last event somebody waits for from now on
    };

    // hands something to the engine's thread; throws Error(KVF_ERROR_CLOSED)
    void post(Command command);

    // has something done by the engine's thread, waits for it, and throws what it threw
    void ask(const std::function<void(Scheduler & scheduler)> & work);

    void run();
    void publish_stats();
    void publish(std::vector<Event> & out);

    std::shared_ptr<Store> store() const;

    const llama_model *                            model_;
    const llama_context_params                     params_;
    const bool                                     batch_invariant_;
    ThreadPool                                     threads_;
    std::atomic<bool>                              closing_{ false }; // the context asks it whether to go on
    std::unique_ptr<llama_context, ContextDeleter> ctx_;              // the thread's
    std::unique_ptr<Scheduler>                     scheduler_;        // the thread's
    const size_t                                   n_ctx_;
    std::atomic<kvf_branch_id>                     n_branches_{ 0 };
    EventQueue                                     events_;

    std::mutex              mailbox_mutex_;
    std::condition_variable mailbox_filled_;
    std::vector<Command>    mailbox_;
    bool                    held_ = false; // steps are taken when asked for

    mutable std::mutex     store_mutex_;
    std::shared_ptr<Store> store_; // NULL: none

    mutable std::mutex stats_mutex_;
    kvf_stats          stats_ = {};

    std::mutex  join_mutex_;
    std::thread thread_; // last: it uses all of the above
};

} // namespace kvf
