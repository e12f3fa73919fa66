// The pool of threads that an engine computes with: it changes no bit, it gives way where there are too few processors,
// and it says so where the system has no more threads.
//
// usage: test_thread_pool MODEL.gguf

#include "context/thread_pool.h"
#include "harness.h"
#include "kvf_error.h"

#include <cstring>

#ifdef __linux__
#    include <sched.h>
#    include <sys/resource.h>
#endif

static constexpr uint32_t N_TOKENS = 48;

// the logits of all of N_TOKENS tokens in three batches, by this many threads
static std::vector<float> logits(const Model & model, int32_t n_threads, const kvf::ThreadPool * pool) {
    llama_context_params params = model.params(N_TOKENS, N_TOKENS, 1);
    params.n_threads            = n_threads;
    params.n_threads_batch      = n_threads;
    Context context(model, params);
    if (pool) {
        pool->attach(context.ctx.get());
    }
    std::mt19937       rng(1);
    Tokens             tokens = random_tokens(rng, N_TOKENS, model.n_vocab());
    std::vector<float> all;
    for (const uint32_t n : { N_TOKENS - 2, 1u, 1u }) {
        CHECK(llama_decode(context.ctx.get(), llama_batch_get_one(tokens.data(), static_cast<int32_t>(n))) == 0);
        const float * row = llama_get_logits_ith(context.ctx.get(), -1);
        all.insert(all.end(), row, row + model.n_vocab());
    }
    return all;
}

static bool same_bits(const std::vector<float> & a, const std::vector<float> & b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

static void test_bits(const Model & model) {
    const std::vector<float> alone = logits(model, 1, nullptr);
    for (const int32_t n_threads : { 1, 2, 3, 8 }) {
        const std::vector<float> without = logits(model, n_threads, nullptr);
        const kvf::ThreadPool    pool(n_threads);
        for (int i = 0; i < 3; ++i) { // the same threads, in one context after the other
            CHECK(same_bits(logits(model, n_threads, &pool), without));
        }
        CHECK(same_bits(logits(model, 1, &pool), alone)); // fewer than it has
    }
}

#ifdef __linux__

// On one processor a thread can only arrive at a barrier when the others have given way. Who spins is taken off the
// processor in the end (an involuntary switch); who sleeps leaves it (a voluntary one).
static void test_gives_way(const Model & model) {
    cpu_set_t before;
    cpu_set_t one;
    CHECK(sched_getaffinity(0, sizeof before, &before) == 0);
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++i) {
        if (CPU_ISSET(i, &before)) {
            CPU_SET(i, &one);
        }
    }
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0); // the pool's threads inherit it
    {
        const kvf::ThreadPool pool(4);
        rusage                usage[2];
        getrusage(RUSAGE_SELF, &usage[0]);
        for (int i = 0; i < 4; ++i) {
            logits(model, 4, &pool);
        }
        getrusage(RUSAGE_SELF, &usage[1]);
        const long n_voluntary   = usage[1].ru_nvcsw - usage[0].ru_nvcsw;
        const long n_involuntary = usage[1].ru_nivcsw - usage[0].ru_nivcsw;
        std::fprintf(stderr, "%ld voluntary and %ld involuntary switches\n", n_voluntary, n_involuntary);
        CHECK(n_voluntary > n_involuntary);
    }
    CHECK(sched_setaffinity(0, sizeof before, &before) == 0);
}

// instrumented code has address space of its own
#    if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

static void test_refused() {
    rlimit before;
    CHECK(getrlimit(RLIMIT_AS, &before) == 0);
    rlimit less   = before;
    less.rlim_cur = rlim_t(1) << 30; // 512 stacks of 8 MB take four times as much
    CHECK(setrlimit(RLIMIT_AS, &less) == 0);
    bool refused = false;
    try {
        const kvf::ThreadPool pool(512);
    } catch (const kvf::Error & error) {
        refused = error.kind == KVF_ERROR_INVALID && std::string(error.what()).find("n_threads = 512") == 0;
    }
    CHECK(setrlimit(RLIMIT_AS, &before) == 0);
    CHECK(refused);
}

#    endif
#endif

static void test_out_of_range() {
    for (const int32_t n_threads : { -1, 0, 513 }) {
        try {
            const kvf::ThreadPool pool(n_threads);
        } catch (const kvf::Error & error) {
            CHECK(error.kind == KVF_ERROR_INVALID);
            continue;
        }
        CHECK(!"it was taken");
    }
}

int main(int argc, char ** argv) {
    CHECK(argc == 2);
    const Model model(argv[1]);
    test_bits(model);
    test_out_of_range();
#ifdef __linux__
    test_gives_way(model);
#    if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    test_refused();
#    endif
#endif
    std::printf("ok\n");
    return 0;
}
