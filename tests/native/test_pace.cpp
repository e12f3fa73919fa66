// How long those who decode wait for the prompts of others, by a clock that counts rows; and whose prompt comes first.
//
// usage: test_pace MODEL.gguf

#include "harness.h"

#include <chrono>
#include <cmath>

namespace {

constexpr double STEP_MS = 20.0;
constexpr double ROW_MS  = 2.0; // of a prompt

// a scheduler with a clock that knows what was computed
struct PacedBench : Bench {
    PacedBench(const Model & model, double max_gap_ms, bool batch_invariant = false)
        : Bench(model, model.params(8192, 512, 32), [&] {
              kvf::Scheduler::Params params;
              params.batch_invariant = batch_invariant;
              params.max_gap_ms      = max_gap_ms;
              params.now             = [this] { return now(); };
              return params;
          }()) {}

    kvf::Clock::time_point now() const {
        const kvf_stats stats = scheduler.stats();
        const double    ms =
            STEP_MS * static_cast<double>(stats.steps) + ROW_MS * static_cast<double>(stats.prefilled_tokens);
        return kvf::Clock::time_point() + std::chrono::hours(1) +
               std::chrono::microseconds(static_cast<int64_t>(1000.0 * ms));
    }

    kvf_branch_id submit(size_t n_tokens, int32_t n_predict) {
        const Tokens tokens  = random(n_tokens);
        kvf_request  request = make_request(tokens, n_predict);
        request.share        = false; // by chance, they may begin alike
        auto branch          = make_branch(model, ++n_branches, request);
        branch->t_submitted  = now();
        scheduler.submit(std::move(branch));
        return n_branches;
    }

    size_t n_steps_to_first_token(kvf_branch_id id) {
        size_t n = 0;
        for (; records[id].tokens.empty(); ++n) {
            CHECK(n < 10000);
            step();
        }
        return n;
    }

    void start_streams() {
        for (int i = 0; i < 4; ++i) {
            submit(10, 400);
        }
        for (int i = 0; i < 10; ++i) {
            step();
        }
        CHECK(records[4].tokens.size() == 10 && scheduler.stats().gap_ms_max == STEP_MS);
    }
};

} // namespace

static void test_streams_wait_as_long_as_they_may(const Model & model) {
    PacedBench bench(model, 250.0);
    bench.start_streams();
    const kvf_branch_id id    = bench.submit(4000, 4);
    const size_t        n     = bench.n_steps_to_first_token(id);
    const kvf_stats     stats = bench.scheduler.stats();
    CHECK(stats.gap_ms_max > 200.0 && stats.gap_ms_max <= 250.0);
    CHECK(stats.prefilled_tokens == 4 * 10 + 4000);
    CHECK(n <= 4000 / 112 + 2); // rows of 2 ms in 230 ms

    PacedBench without(model, 0.0);
    without.start_streams();
    without.n_steps_to_first_token(without.submit(4000, 4));
    CHECK(without.scheduler.stats().gap_ms_max > 1000.0);
}

// a prompt that nobody waits for is computed in whole batches, and so are all in batch-invariant mode
static void test_prompts_alone_are_computed_in_whole_batches(const Model & model) {
    PacedBench bench(model, 250.0);
    bench.submit(1200, 4);
    CHECK(bench.step() == 512 && bench.step() == 512 && bench.step() == 176);

    PacedBench invariant(model, 250.0, /* batch_invariant = */ true);
    invariant.start_streams();
    invariant.submit(1200, 4);
    CHECK(invariant.step() == 508);
}

// where a step without prompts takes longer than a gap may be, prompts still move on
static void test_prompts_never_stand_still(const Model & model) {
    PacedBench bench(model, 1.0);
    bench.start_streams();
    const kvf_branch_id id = bench.submit(100, 4);
    CHECK(bench.step() == 16);
    CHECK(bench.n_steps_to_first_token(id) <= 7);
}

static void test_short_prompt_does_not_wait_for_a_long_one(const Model & model) {
    for (const bool with_streams : { true, false }) {
        PacedBench bench(model, 250.0);
        if (with_streams) {
            bench.start_streams();
        }
        const kvf_branch_id document = bench.submit(4000, 4);
        bench.step();
        const kvf_branch_id question = bench.submit(30, 4);
        CHECK(bench.n_steps_to_first_token(question) == 1);
        CHECK(bench.records[document].tokens.empty());
    }
}

// nor does the long one stand still however many short ones come
static void test_long_prompt_has_half_of_the_rows(const Model & model) {
    PacedBench bench(model, 0.0);
    bench.submit(20, 400);
    const kvf_branch_id document = bench.submit(3000, 4);
    size_t              n        = 0;
    for (; bench.records[document].tokens.empty(); ++n) {
        for (int i = 0; i < 4; ++i) {
            bench.submit(100, 0);
        }
        bench.step();
    }
    CHECK(n <= 3000 / 255 + 1);
}

// of equals, the first comes first: two that take turns would both be late
static void test_prompts_of_one_length_come_one_after_the_other(const Model & model) {
    PacedBench          bench(model, 0.0);
    const kvf_branch_id first  = bench.submit(1000, 4);
    const kvf_branch_id second = bench.submit(1000, 4);
    CHECK(bench.n_steps_to_first_token(first) == 2);
    CHECK(bench.records[second].tokens.empty());
}

static void test_waiting_is_counted(const Model & model) {
    PacedBench bench(model, 0.0);
    bench.start_streams();
    CHECK(bench.scheduler.stats().branches_started == 4 && bench.scheduler.stats().wait_ms == 0.0);
    bench.submit(7000, 1);
    const kvf_branch_id second = bench.submit(7000, 1); // has no room beside the first
    run_to_end(bench.scheduler, bench.records);
    const kvf_stats stats = bench.scheduler.stats();
    CHECK(stats.branches_started == 6 && stats.wait_ms_max > 7000 * ROW_MS);
    CHECK(std::abs(stats.wait_ms - stats.wait_ms_max) < 1e-6 &&
          bench.records[second].usage.t_wait == stats.wait_ms_max);
    CHECK(bench.records[1].usage.t_gap == stats.gap_ms_max);
}

int main(int argc, char ** argv) {
    CHECK(argc == 2);
    const Model model(argv[1]);
    test_streams_wait_as_long_as_they_may(model);
    test_prompts_alone_are_computed_in_whole_batches(model);
    test_prompts_never_stand_still(model);
    test_short_prompt_does_not_wait_for_a_long_one(model);
    test_long_prompt_has_half_of_the_rows(model);
    test_prompts_of_one_length_come_one_after_the_other(model);
    test_waiting_is_counted(model);
    return 0;
}
