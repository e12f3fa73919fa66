// A branch says what it says alone, bit for bit, whatever else is in the batch and in the cache: random prompts, some of
// which begin alike, that arrive at random times, in a cache too small for them all; in each type of weights.
//
// usage: test_batch_invariance MODEL.gguf FOLDER

#include "engine/batch_invariance.h"
#include "engine/error.h"
#include "ggml-cpu-fan-out.h"
#include "harness.h"

#include <cstring>

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

static Record alone(const Model & model, const Tokens & prompt) {
    Context                         context(model, model.params(1024, 512, 1));
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
    Context context(model, params);
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

// The proof fails where the kernels differ: without the switch, for instance.
static void test_the_proof_can_fail(const Model & model) {
    Context context(model, model.params(1024, 64, 8));
    try {
        kvf::prove_batch_invariance(context.ctx.get());
    } catch (const kvf::Error & error) {
        CHECK(error.kind == KVF_ERROR_INVALID);
        return;
    }
    CHECK(!"it held without the switch");
}

int main(int argc, char ** argv) {
    CHECK(argc == 3);
    ggml_cpu_set_fan_out_attn(true);
    ggml_cpu_set_fan_out_mul_mat(true);
    const Model f32(argv[1]);
    test_the_proof_can_fail(f32);

    const kvf::BatchInvariance invariance;
    test_random_company(f32, 1, 2);
    for (const llama_ftype type :
         { LLAMA_FTYPE_MOSTLY_F16, LLAMA_FTYPE_MOSTLY_Q8_0, LLAMA_FTYPE_MOSTLY_Q4_0, LLAMA_FTYPE_MOSTLY_Q4_1,
           LLAMA_FTYPE_MOSTLY_Q4_K_M, LLAMA_FTYPE_MOSTLY_Q5_K_M, LLAMA_FTYPE_MOSTLY_Q6_K }) {
        const Model model(quantized(argv[1], argv[2], type));
        std::printf("type %d\n", type);
        test_random_company(model, 2 + type, 1 + type % 2);
    }
    return 0;
}
