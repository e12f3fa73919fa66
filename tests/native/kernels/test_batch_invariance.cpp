// A branch says what it says alone, bit for bit, whatever else is in the batch and in the cache: random prompts, some of
// which begin alike, that arrive at random times, in a cache too small for them all; in each type of weights.
//
// usage: test_batch_invariance MODEL.gguf FOLDER

#include "context/batch_invariance.h"
#include "harness.h"
#include "kvf_error.h"
#include "llama-cpu-options.h"

#include <cstring>
#include <thread>

using kvf::Scheduler;

static std::string quantized(const std::string & path, const std::string & folder, llama_ftype type) {
    const std::string           out    = folder + "/quantized-" + std::to_string(type) + ".gguf";
    llama_model_quantize_params params = llama_model_quantize_default_params();
    params.ftype                       = type;
    params.nthread                     = 2;
    params.pure                        = true;
    CHECK(llama_model_quantize(path.c_str(), out.c_str(), &params) == 0);
    return out;
}

static std::vector<Tokens> random_prompts(const Model & model, std::mt19937 & rng, size_t n) {
    std::vector<Tokens> prompts;
    for (size_t i = 0; i < n; ++i) {
        Tokens prompt;
        if (i > 0 && rng() % 2 == 0) { // begins like another one, anywhere
            const Tokens & other = prompts[rng() % prompts.size()];
            prompt.assign(other.begin(), other.begin() + 1 + rng() % other.size());
        }
        for (const llama_token token : random_tokens(rng, 1 + rng() % 120, model.n_vocab())) {
            prompt.push_back(token);
        }
        prompts.push_back(prompt);
    }
    return prompts;
}

// every fourth with its logits, which take longer than the model
static kvf_request request_for(const Model & model, const Tokens & prompt) {
    kvf_request request = make_request(prompt, 70);
    if (prompt.size() % 4 == 0) {
        request.n_logprobs = model.n_vocab();
    }
    return request;
}

static constexpr uint32_t FAN_OUT = GGML_CPU_OPTION_FAN_OUT_ATTN | GGML_CPU_OPTION_FAN_OUT_MUL_MAT;

static Context make_context(const Model &                model,
                            const llama_context_params & params,
                            uint32_t                     options = FAN_OUT | GGML_CPU_OPTION_BATCH_INVARIANT) {
    Context context(model, params);
    CHECK(llama_set_cpu_options(context.ctx.get(), options));
    return context;
}

static Record alone(const Model & model, const Tokens & prompt) {
    Context                         context = make_context(model, model.params(1024, 512, 1));
    Scheduler                       scheduler(context.ctx.get(), { /* batch_invariant = */ true });
    std::map<kvf_branch_id, Record> records;
    scheduler.submit(make_branch(model, 1, request_for(model, prompt)));
    run_to_end(scheduler, records);
    return records[1];
}

static bool same_bits(const std::vector<kvf_logprob> & a, const std::vector<kvf_logprob> & b) {
    const std::vector<float> x = logits_of(a);
    const std::vector<float> y = logits_of(b);
    return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0;
}

static void test_random_company(const Model & model, uint32_t seed, int32_t n_threads) {
    std::mt19937              rng(seed);
    const std::vector<Tokens> prompts = random_prompts(model, rng, 16);
    llama_context_params      params  = model.params(768, 48, 12);
    params.n_threads                  = n_threads;
    params.n_threads_batch            = n_threads;
    Context context                   = make_context(model, params);
    kvf::prove_batch_invariance(context.ctx.get());

    Scheduler                       scheduler(context.ctx.get(), { /* batch_invariant = */ true });
    std::map<kvf_branch_id, Record> records;
    std::vector<kvf::Event>         events;
    for (size_t i = 0; i < prompts.size(); ++i) {
        scheduler.submit(make_branch(model, i + 1, request_for(model, prompts[i])));
        for (uint32_t k = rng() % 12; k > 0; --k) {
            scheduler.step(events);
            record(records, events);
        }
    }
    run_to_end(scheduler, records);
    const kvf_stats stats = scheduler.stats();
    std::printf("%u steps, %u forks, %u preemptions, %u evictions\n", unsigned(stats.steps), unsigned(stats.forks),
                unsigned(stats.preemptions), unsigned(stats.evictions));
    CHECK(stats.forks > 0 && stats.evictions + stats.preemptions > 0); // the cache was too small

    for (size_t i = 0; i < prompts.size(); ++i) {
        const Record   expected = alone(model, prompts[i]);
        const Record & r        = records[i + 1];
        CHECK(r.finish == KVF_FINISH_LENGTH && r.tokens == expected.tokens);
        for (size_t k = 0; prompts[i].size() % 4 == 0 && k < r.tokens.size(); ++k) {
            CHECK(same_bits(r.logprobs[k], expected.logprobs[k]));
        }
    }
}

static bool is_proven(llama_context * ctx) {
    try {
        kvf::prove_batch_invariance(ctx);
    } catch (const kvf::Error & error) {
        CHECK(error.kind == KVF_ERROR_INVALID);
        return false;
    }
    return true;
}

// The proof fails where the kernels differ: without the option, for instance.
static void test_the_proof_can_fail(const Model & model) {
    CHECK(!is_proven(make_context(model, model.params(1024, 64, 8), FAN_OUT).ctx.get()));
}

// The logits of some tokens, in one go and then one at a time.
static std::vector<float> logits_of_a_run(llama_context * ctx, const Tokens & tokens) {
    llama_memory_clear(llama_get_memory(ctx), false);
    Tokens             copy = tokens;
    const auto         n    = static_cast<int32_t>(tokens.size());
    std::vector<float> all;
    for (int32_t i = 0; i < n;) {
        const int32_t n_rows = i == 0 ? n / 2 : 1;
        CHECK(llama_decode(ctx, llama_batch_get_one(copy.data() + i, n_rows)) == 0);
        const float * row = llama_get_logits_ith(ctx, -1);
        all.insert(all.end(), row, row + llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx))));
        i += n_rows;
    }
    return all;
}

// The options are a context's. Contexts with different ones compute at the same time, each in a thread of its own, what
// each computes alone; and the proof goes on holding for the one that has the option, and failing for the other.
static void test_contexts_differ(const Model & model) {
    std::mt19937                    rng(7);
    const Tokens                    tokens  = random_tokens(rng, 96, model.n_vocab());
    const uint32_t                  each[3] = { 0, FAN_OUT, FAN_OUT | GGML_CPU_OPTION_BATCH_INVARIANT };
    std::vector<Context>            contexts;
    std::vector<std::vector<float>> expected;
    for (const uint32_t options : each) {
        contexts.push_back(make_context(model, model.params(256, 64, 8), options));
        expected.push_back(logits_of_a_run(contexts.back().ctx.get(), tokens));
    }
    CHECK(expected[0] != expected[1] && expected[1] != expected[2]); // or nothing is shown below

    std::vector<std::thread> threads;
    for (size_t i = 0; i < contexts.size(); ++i) {
        threads.emplace_back([&, i] {
            for (int k = 0; k < 20; ++k) {
                CHECK(logits_of_a_run(contexts[i].ctx.get(), tokens) == expected[i]);
                if (i > 0 && k % 5 == 0) {
                    CHECK(is_proven(contexts[i].ctx.get()) == (i == 2));
                }
            }
        });
    }
    for (std::thread & thread : threads) {
        thread.join();
    }
}

int main(int argc, char ** argv) {
    CHECK(argc == 3);
    const Model f32(argv[1]);
    test_the_proof_can_fail(f32);

    test_contexts_differ(f32);
    test_random_company(f32, 1, 2);
    for (const llama_ftype type :
         { LLAMA_FTYPE_MOSTLY_F16, LLAMA_FTYPE_MOSTLY_Q8_0, LLAMA_FTYPE_MOSTLY_Q4_0, LLAMA_FTYPE_MOSTLY_Q4_1,
           LLAMA_FTYPE_MOSTLY_Q5_0, LLAMA_FTYPE_MOSTLY_Q5_1, LLAMA_FTYPE_MOSTLY_Q4_K_M, LLAMA_FTYPE_MOSTLY_Q5_K_M,
           LLAMA_FTYPE_MOSTLY_Q6_K, LLAMA_FTYPE_MOSTLY_IQ4_NL, LLAMA_FTYPE_MOSTLY_IQ4_XS }) {
        const std::string path = quantized(argv[1], argv[2], type);
        for (const bool plain : { false, true }) {
            const Model model(path, plain);
            std::printf("type %d, %s\n", type, plain ? "plain" : "in this processor's order");
            test_random_company(model, 2 + type, 1 + type % 2);
        }
    }
    return 0;
}
