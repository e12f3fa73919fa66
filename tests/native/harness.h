#pragma once

#include "../src/llama-ext.h"
#include "check.h"
#include "ggml-backend.h"
#include "kvfork.h"
#include "scheduler/scheduler.h"

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

// What the tests of the engine share: a model, contexts, branches, and the plain way to get a row's logits.

using Tokens = std::vector<llama_token>;

struct Model {
    std::unique_ptr<llama_model, void (*)(llama_model *)> model{ nullptr, llama_model_free };

    // plain: with its weights in the order of its file, whatever else this processor would like
    explicit Model(const std::string & path, bool plain = false) {
        kvf_set_log_level(GGML_LOG_LEVEL_ERROR);
        llama_backend_init();
        llama_model_params params = llama_model_default_params();
        params.use_extra_bufts    = !plain;
        model.reset(llama_model_load_from_file(path.c_str(), params));
        CHECK(model);
    }

    int32_t n_vocab() const { return llama_vocab_n_tokens(llama_model_get_vocab(model.get())); }

    llama_context_params params(uint32_t n_ctx, uint32_t n_batch, uint32_t n_seq_max) const {
        llama_context_params params = llama_context_default_params();
        params.n_ctx                = n_ctx;
        params.n_batch              = n_batch;
        params.n_ubatch             = n_batch;
        params.n_seq_max            = n_seq_max;
        params.n_threads            = 1;
        params.n_threads_batch      = 1;
        params.kv_unified           = true;
        return params;
    }
};

struct Context {
    std::unique_ptr<llama_context, void (*)(llama_context *)> ctx{ nullptr, llama_free };

    Context(const Model & model, const llama_context_params & params) {
        ctx.reset(llama_init_from_model(model.model.get(), params));
        CHECK(ctx);
        check_device();
    }

    // where the tests are to run on a device, nothing of a cache may lie elsewhere
    void check_device() const {
        const char * name = std::getenv("KVFORK_TEST_DEVICE");
        if (!name) {
            return;
        }
        if (!ggml_backend_dev_by_name(name)) {
            std::fprintf(stderr, "There is no device %s: its driver is missing.\n", name);
            std::abort();
        }
        for (const auto & [type, memory] : llama_get_memory_breakdown(ctx.get())) {
            if (memory.context > 0) {
                CHECK(!ggml_backend_buft_is_host(type));
                CHECK(std::string(name) == ggml_backend_dev_name(ggml_backend_buft_get_device(type)));
            }
        }
    }
};

inline Tokens random_tokens(std::mt19937 & rng, size_t n, int32_t n_vocab) {
    Tokens tokens(n);
    for (llama_token & token : tokens) {
        token = static_cast<llama_token>(rng() % static_cast<uint32_t>(n_vocab));
    }
    return tokens;
}

inline kvf_request make_request(const Tokens & tokens, int32_t n_predict) {
    kvf_request request          = kvf_request_default();
    request.tokens               = tokens.data();
    request.n_tokens             = tokens.size();
    request.n_predict            = n_predict;
    request.ignore_eos           = true;
    request.sampling.temperature = 0.0f;
    request.sampling.seed        = 1;
    return request;
}

inline std::unique_ptr<kvf::Branch> make_branch(const Model & model, kvf_branch_id id, const kvf_request & request) {
    return kvf::make_branch(model.model.get(), /* n_ctx = */ 4096, id, request);
}

// what the events of a schedule add up to, by branch
struct Record {
    Tokens                                tokens;
    kvf_finish                            finish = KVF_FINISH_NONE;
    kvf_error                             error  = KVF_ERROR_NONE;
    kvf_usage                             usage  = {};
    std::vector<std::vector<kvf_logprob>> logprobs;
};

inline void record(std::map<kvf_branch_id, Record> & records, std::vector<kvf::Event> & events) {
    for (kvf::Event & event : events) {
        Record & r = records[event.head.branch_id];
        CHECK(r.finish == KVF_FINISH_NONE); // nothing follows a branch's last event
        if (event.head.type == KVF_EVENT_TOKEN) {
            r.tokens.push_back(event.head.token);
            r.logprobs.push_back(std::move(event.logprobs));
        } else if (event.head.type == KVF_EVENT_DONE) {
            r.finish = static_cast<kvf_finish>(event.head.finish);
            r.error  = static_cast<kvf_error>(event.head.error);
            r.usage  = event.head.usage;
        }
    }
    events.clear();
}

inline void run_to_end(kvf::Scheduler & scheduler, std::map<kvf_branch_id, Record> & records) {
    std::vector<kvf::Event> events;
    for (int n_steps = 0; !scheduler.idle(); ++n_steps) {
        CHECK(n_steps < 100000);
        scheduler.step(events);
        record(records, events);
    }
}

// a scheduler, and calls that are told to their end
struct Bench {
    const Model &                   model;
    std::mt19937                    rng{ 1 };
    Context                         context;
    kvf::Scheduler                  scheduler;
    std::map<kvf_branch_id, Record> records;
    kvf_branch_id                   n_branches = 0;

    Bench(const Model & model, const llama_context_params & params, const kvf::Scheduler::Params & schedule = {})
        : model(model), context(model, params), scheduler(context.ctx.get(), schedule) {}

    Tokens random(size_t n) { return random_tokens(rng, n, model.n_vocab()); }

    Tokens and_random(Tokens tokens, size_t n) {
        for (const llama_token token : random(n)) {
            tokens.push_back(token);
        }
        return tokens;
    }

    kvf_branch_id submit(const Tokens & tokens, int32_t n_predict, kvf_run_id run = 0) {
        kvf_request request = make_request(tokens, n_predict);
        request.run_id      = run;
        scheduler.submit(make_branch(model, ++n_branches, request));
        return n_branches;
    }

    kvf_usage call(const Tokens & tokens, int32_t n_predict, kvf_run_id run = 0) {
        const kvf_branch_id id = submit(tokens, n_predict, run);
        run_to_end(scheduler, records);
        CHECK(records[id].error == KVF_ERROR_NONE);
        return records[id].usage;
    }

    // the rows of prompts that it computed
    uint64_t step() {
        const uint64_t          n_before = stats().prefilled_tokens;
        std::vector<kvf::Event> events;
        scheduler.step(events);
        record(records, events);
        return stats().prefilled_tokens - n_before;
    }

    kvf_stats stats() const { return scheduler.stats(); }
};

// the logits after the last of the tokens, computed alone in a context of their own, n_chunk tokens at a time
inline std::vector<float> fresh_logits(const Model & model, const Tokens & tokens, size_t n_chunk) {
    const auto n_ctx = static_cast<uint32_t>(tokens.size() + 8);
    Context    context(model, model.params(n_ctx, n_ctx, 1));
    Tokens     copy = tokens;
    for (size_t i = 0; i < copy.size(); i += n_chunk) {
        const size_t n = std::min(n_chunk, copy.size() - i);
        CHECK(llama_decode(context.ctx.get(), llama_batch_get_one(copy.data() + i, static_cast<int32_t>(n))) == 0);
    }
    const float * logits = llama_get_logits_ith(context.ctx.get(), -1);
    return { logits, logits + model.n_vocab() };
}

// a row's logits from its log-probabilities, if these are of the whole vocabulary
inline std::vector<float> logits_of(const std::vector<kvf_logprob> & logprobs) {
    std::vector<float> logits(logprobs.size() - 1); // the first is the chosen token once more
    for (const kvf_logprob & l : logprobs) {
        logits.at(l.token) = l.logit;
    }
    return logits;
}

// normalized mean squared error
inline double nmse(const std::vector<float> & got, const std::vector<float> & expected) {
    CHECK(got.size() == expected.size());
    double error = 0.0;
    double norm  = 0.0;
    for (size_t i = 0; i < got.size(); ++i) {
        error += (got[i] - expected[i]) * (got[i] - expected[i]);
        norm += expected[i] * expected[i];
    }
    return error / norm;
}
