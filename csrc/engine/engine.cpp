#include "engine/engine.h"

#include "context/batch_invariance.h"
#include "context/context_memory.h"
#include "context/fingerprint.h"
#include "kvf_error.h"
#include "llama-cpu-options.h"

#include <chrono>
#include <cmath>
#include <future>
#include <string>

namespace kvf {

namespace {

std::atomic<bool> stops_loading{ false };
thread_local bool aborts_here = false;

void require_loading() {
    if (loading_is_stopped()) {
        throw Error(KVF_ERROR_CLOSED, "the process is ending");
    }
}

const llama_model * checked(const llama_model * model) {
    if (llama_model_has_encoder(model) || !llama_model_has_decoder(model)) {
        throw Error(KVF_ERROR_INVALID, "model: has no decoder-only architecture; use a model that generates text");
    }
    if (llama_vocab_type(llama_model_get_vocab(model)) == LLAMA_VOCAB_TYPE_NONE) {
        throw Error(KVF_ERROR_INVALID, "model: has no vocabulary; use a file that contains its tokenizer");
    }
    return model;
}

llama_context * make_context(const llama_model *  model,
                             llama_context_params params,
                             bool                 batch_invariant,
                             std::atomic<bool> &  closing) {
    require_loading();
    if (params.n_seq_max < 1 || params.n_seq_max > llama_max_parallel_sequences()) {
        throw Error(KVF_ERROR_INVALID, "n_seq_max = " + std::to_string(params.n_seq_max) + ": must be from 1 to " +
                                           std::to_string(llama_max_parallel_sequences()) +
                                           ", for which llama.cpp is compiled (LLAMA_MAX_SEQ); branches beyond that "
                                           "wait for their turn");
    }
    params.kv_unified     = true;             // a fork shares cells only within one buffer
    params.n_outputs_max  = params.n_seq_max; // a sequence wants one row of logits at a time
    params.embeddings     = false;
    params.abort_callback = [](void * data) {
        aborts_here = stops_loading.load() || static_cast<std::atomic<bool> *>(data)->load();
        return aborts_here;
    };
    params.abort_callback_data = &closing;

    llama_context * ctx = llama_init_from_model(const_cast<llama_model *>(model), params);
    if (!ctx) {
        throw Error(KVF_ERROR_INTERNAL, "the context cannot be created: " + describe_need(model, params));
    }
    if (!llama_get_memory(ctx)) {
        llama_free(ctx);
        throw Error(KVF_ERROR_INVALID, "model: keeps no memory of a sequence, so there is nothing to generate from");
    }
    llama_set_cpu_options(ctx, GGML_CPU_OPTION_FAN_OUT_ATTN | GGML_CPU_OPTION_FAN_OUT_MUL_MAT |
                                   (batch_invariant ? GGML_CPU_OPTION_BATCH_INVARIANT : 0));
    return ctx;
}

std::unique_ptr<Scheduler> make_scheduler(llama_context *    ctx,
                                          const ThreadPool & threads,
                                          bool               batch_invariant,
                                          double             max_gap_ms) {
    if (!(max_gap_ms >= 0.0 && std::isfinite(max_gap_ms))) {
        throw Error(KVF_ERROR_INVALID, "max_gap_ms = " + std::to_string(max_gap_ms) +
                                           ": must be a number of milliseconds, or 0 for prompts in whole batches");
    }
    Scheduler::Params params;
    params.batch_invariant = batch_invariant;
    params.max_gap_ms      = max_gap_ms;

    require_loading();
    threads.attach(ctx);
    auto scheduler = std::make_unique<Scheduler>(ctx, std::move(params));
    if (batch_invariant) {
        prove_batch_invariance(ctx);
    }
    return scheduler;
}

} // namespace

void stop_loading() {
    stops_loading = true;
}

bool loading_is_stopped() {
    return stops_loading;
}

bool aborts_computation() {
    return aborts_here;
}

Engine::Engine(const llama_model * model, llama_context_params params, bool batch_invariant, double max_gap_ms)
    : model_(checked(model)),
      params_(params),
      batch_invariant_(batch_invariant),
      threads_(std::max(params.n_threads, params.n_threads_batch)),
      ctx_(make_context(model, params, batch_invariant, closing_)),
      scheduler_(make_scheduler(ctx_.get(), threads_, batch_invariant, max_gap_ms)),
      n_ctx_(llama_n_ctx(ctx_.get())),
      stats_(scheduler_->stats()),
      thread_(&Engine::run, this) {}

Engine::~Engine() {
    close();
}

kvf_branch_id Engine::submit(const kvf_request & request) {
    if (request.n_tokens > n_ctx_) {
        throw Error(KVF_ERROR_OVERFLOW, "the prompt has " + std::to_string(request.n_tokens) + " tokens, n_ctx is " +
                                            std::to_string(n_ctx_) + ": shorten the prompt or raise n_ctx");
    }
    const kvf_branch_id id     = ++n_branches_;
    auto                branch = make_branch(model_, n_ctx_, id, request);

    // std::function wants to copy what it holds
    auto shared = std::make_shared<std::unique_ptr<Branch>>(std::move(branch));
    post({ [shared](Scheduler & scheduler, std::vector<Event> &) { scheduler.submit(std::move(*shared)); }, id });
    return id;
}

kvf_branch_id Engine::fork(kvf_branch_id branch, uint32_t seed) {
    const kvf_branch_id id = ++n_branches_;
    post({ [=](Scheduler & scheduler, std::vector<Event> & out) { scheduler.fork(branch, id, seed, out); }, id });
    return id;
}

void Engine::cancel(kvf_branch_id branch) {
    post({ [=](Scheduler & scheduler, std::vector<Event> & out) { scheduler.cancel(branch, out); } });
}

void Engine::end_run(kvf_run_id run) {
    post({ [=](Scheduler & scheduler, std::vector<Event> &) { scheduler.end_run(run); } });
}

void Engine::clear() {
    ask([this](Scheduler & scheduler) {
        scheduler.clear();
        publish_stats();
    });
}

void Engine::open_store(const std::string & path,
                        uint64_t            max_bytes,
                        const std::string & weights,
                        const std::string & name) {
    if (path.empty()) {
        throw Error(KVF_ERROR_INVALID, "path: is empty; name a folder");
    }
    auto done    = std::make_shared<std::promise<void>>();
    auto waiting = done->get_future();
    post({ [=](Scheduler & scheduler, std::vector<Event> &) {
        try {
            Store::Params params;
            params.path        = path;
            params.max_bytes   = max_bytes;
            params.description = fingerprint(ctx_.get(), params_, batch_invariant_, weights);
            params.name        = name;
            auto store         = std::make_shared<Store>(std::move(params));
            scheduler.open_store(store);
            const std::lock_guard<std::mutex> lock(store_mutex_);
            store_ = std::move(store);
            done->set_value();
        } catch (...) {
            done->set_exception(std::current_exception());
        }
    } });
    done.reset();
    waiting.get();
}

std::shared_ptr<Store> Engine::store() const {
    const std::lock_guard<std::mutex> lock(store_mutex_);
    return store_;
}

void Engine::save() {
    const std::shared_ptr<Store> store = this->store();
    if (!store) {
        throw Error(KVF_ERROR_INVALID, "the engine has no store to save to: give cache_dir");
    }
    const auto ask = [&](auto question) {
        using Answer = decltype(question(std::declval<Scheduler &>()));
        auto done    = std::make_shared<std::promise<Answer>>();
        auto waiting = done->get_future();
        post({ [done, question](Scheduler & scheduler, std::vector<Event> &) {
            try {
                done->set_value(question(scheduler));
            } catch (...) {
                done->set_exception(std::current_exception());
            }
        } });
        done.reset();
        return waiting.get();
    };
    store->try_again();
    const uint64_t n_refused = store->n_refused();

    // What was written once may be gone: others prune. What they leave meanwhile is not waited for.
    auto kept = ask([](Scheduler & scheduler) { return scheduler.kept(); });
    for (Scheduler::Kept & one : kept) {
        one.lookup = store->look_up(one.name_space, one.tokens, one.tokens.size());
    }
    const auto require_answer = [](bool answers) {
        if (!answers) {
            throw Error(KVF_ERROR_INTERNAL, "the store's disk does not answer");
        }
    };
    require_answer(store->finish_lookups());
    const uint64_t n_added = ask([&kept](Scheduler & scheduler) { return scheduler.save(kept); });
    while (!ask([n_added](Scheduler & scheduler) { return scheduler.has_saved(n_added); })) {
        require_answer(store->has_room() || store->finish());
        std::this_thread::sleep_for(std::chrono::milliseconds(2)); // a slice a step, as at any time
    }
    require_answer(store->finish());
    if (store->n_refused() != n_refused) {
        throw Error(KVF_ERROR_INTERNAL, "the store has not taken all of it: " + store->last_refusal());
    }
}

void Engine::check_integrity() {
    std::string wrong;
    ask([&wrong](Scheduler & scheduler) { wrong = scheduler.fault(); });
    const std::shared_ptr<Store> store = this->store();
    if (wrong.empty() && store) {
        wrong = store->fault_of_index();
    }
    if (!wrong.empty()) {
        throw Error(KVF_ERROR_INTERNAL, "the engine is not sound: " + wrong);
    }
}

void Engine::hold(bool held) {
    const std::lock_guard<std::mutex> lock(mailbox_mutex_);
    held_ = held;
    mailbox_filled_.notify_one();
}

bool Engine::step() {
    auto done    = std::make_shared<std::promise<bool>>();
    auto waiting = done->get_future();
    post({ [this, done](Scheduler & scheduler, std::vector<Event> & out) {
        try {
            const bool has_work = !scheduler.idle();
            if (has_work) {
                scheduler.step(out);
            }
            publish(out); // before anybody is told that it is done
            done->set_value(has_work);
        } catch (...) {
            done->set_exception(std::current_exception());
            throw;
        }
    } });
    done.reset();
    return waiting.get();
}

std::string Engine::stored(const std::string & name_space, const std::vector<llama_token> & tokens) const {
    const std::shared_ptr<Store> store = this->store();
    if (!store) {
        throw Error(KVF_ERROR_INVALID, "the engine has no store to look into: give cache_dir");
    }
    return store->stored(name_space, tokens);
}

std::string Engine::take_store_fault() {
    const std::shared_ptr<Store> store = this->store();
    return store ? store->take_fault() : "";
}

void Engine::set_lora(llama_adapter_lora * lora, float scale) {
    if (llama_adapter_get_alora_n_invocation_tokens(lora) > 0) {
        throw Error(KVF_ERROR_INVALID,
                    "lora: is an activated LoRA, which holds from an invocation on only; use a plain LoRA");
    }
    if (!std::isfinite(scale)) {
        throw Error(KVF_ERROR_INVALID,
                    "scale = " + std::to_string(scale) + ": must be finite; 1 is the adapter as it is");
    }
    if (store()) {
        throw Error(KVF_ERROR_INVALID, "lora: the engine has a store already, which is for the weights without it");
    }
    ask([=](Scheduler & scheduler) {
        llama_adapter_lora * loras[]  = { lora };
        float                scales[] = { scale };
        llama_set_adapters_lora(ctx_.get(), loras, 1, scales);
        scheduler.clear(); // computed with other weights
    });
}

void Engine::close() {
    {
        const std::lock_guard<std::mutex> lock(mailbox_mutex_);
        closing_ = true;
    }
    mailbox_filled_.notify_one();
    const std::lock_guard<std::mutex> lock(join_mutex_);
    if (thread_.joinable()) {
        thread_.join();
    }
}

kvf_stats Engine::stats() const {
    const std::shared_ptr<Store>      store = this->store();
    const std::lock_guard<std::mutex> lock(stats_mutex_);
    kvf_stats                         stats = stats_;
    stats.stored_bytes                      = store ? store->n_bytes_written() : 0; // beside the engine's steps
    return stats;
}

int32_t Engine::poll(kvf_event * out, size_t n_max, int32_t timeout_ms) {
    return events_.poll(out, n_max, timeout_ms);
}

void Engine::post(Command command) {
    {
        const std::lock_guard<std::mutex> lock(mailbox_mutex_);
        if (closing_) {
            throw Error(KVF_ERROR_CLOSED, "the engine is closed");
        }
        mailbox_.push_back(std::move(command));
    }
    mailbox_filled_.notify_one();
}

void Engine::ask(const std::function<void(Scheduler & scheduler)> & work) {
    auto done    = std::make_shared<std::promise<void>>();
    auto waiting = done->get_future();
    post({ [done, work](Scheduler & scheduler, std::vector<Event> &) {
        try {
            work(scheduler);
        } catch (...) {
            done->set_exception(std::current_exception());
            throw;
        }
        done->set_value();
    } });
    done.reset();
    waiting.get();
}

void Engine::publish_stats() {
    const std::lock_guard<std::mutex> lock(stats_mutex_);
    stats_ = scheduler_->stats();
}

// Does what nobody else would do, however little memory there is: waits until there is some.
template <typename Work>
static void insist(Work && work) noexcept {
    for (;;) {
        try {
            return work();
        } catch (const std::bad_alloc &) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    }
}

// who sees an event sees statistics that are no older
void Engine::publish(std::vector<Event> & out) {
    insist([&] { publish_stats(); });
    insist([&] { events_.push(out); });
}

void Engine::run() {
    std::vector<Event>   out;
    std::vector<Command> commands;

    // Where something fails unforeseen, a branch that was just to begin fails alone. Otherwise all do, and the cache is made
    // anew: it may be half changed.
    const auto fail = [&](const char * why, kvf_branch_id beginning) {
        insist([&] {
            const std::string message = std::string("the engine failed: ") + why;
            if (beginning) {
                scheduler_->fail_unknown(beginning, KVF_ERROR_INTERNAL, message, out);
            } else {
                scheduler_->reset(KVF_ERROR_INTERNAL, message, out);
            }
        });
    };
    const auto guarded = [&](kvf_branch_id beginning, auto && work) {
        try {
            work();
        } catch (const std::exception & e) {
            fail(reason(e), beginning);
        } catch (...) {
            fail("llama.cpp does not say why", beginning);
        }
    };
    const auto obey = [&] {
        for (Command & command : commands) {
            guarded(command.begins, [&] { command.work(*scheduler_, out); });
        }
        commands.clear();
    };

    while (!closing_) {
        bool held;
        {
            std::unique_lock<std::mutex> lock(mailbox_mutex_);
            mailbox_filled_.wait(lock,
                                 [&] { return closing_ || !mailbox_.empty() || (!held_ && !scheduler_->idle()); });
            std::swap(commands, mailbox_);
            held = held_;
        }
        obey();
        if (!closing_ && !held) {
            guarded(0, [&] { scheduler_->step(out); });
        }
        publish(out);
    }

    {
        const std::lock_guard<std::mutex> lock(mailbox_mutex_);
        std::swap(commands, mailbox_);
    }
    obey();
    insist([&] { scheduler_->fail_all(KVF_ERROR_CLOSED, "the engine was closed", out); });
    insist([&] { scheduler_->close_store(); });
    insist([&] { scheduler_->clear(); });
    publish(out);
    events_.close();
}

} // namespace kvf
