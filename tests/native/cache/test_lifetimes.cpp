// How long prefixes are kept, counted: what a living run left outlasts everything else, and everything goes on.
//
// usage: test_lifetimes MODEL.gguf

#include "harness.h"

namespace {

constexpr kvf_run_id NO_RUN = 0;

// with 512 cells
struct SmallBench : Bench {
    explicit SmallBench(const Model &        model,
                        uint32_t             n_seq_max = 32,
                        kvf::Clock::duration run_limit = kvf::Snapshots::RUN_LIMIT)
        : Bench(model,
                model.params(512, 64, n_seq_max),
                { /* batch_invariant = */ false, /* max_gap_ms = */ 0.0, run_limit }) {
        CHECK(stats().cells_total == 512);
    }

    Tokens with_question(const Tokens & tokens) { return and_random(tokens, 4); }

    bool has(const Tokens & tokens) { return call(tokens, 0).n_prefilled == 0; }
};

} // namespace

// a PrefillNode has read a document; plain calls and other runs fill the cache many times over before the fan-out
static void test_prefix_of_a_run_outlasts_what_others_leave(const Model & model) {
    SmallBench   bench(model);
    const Tokens document = bench.random(200);
    bench.call(document, 0, 1);
    for (kvf_run_id run = 2; run < 12; ++run) {
        bench.call(bench.random(150), 8);
        for (int i = 0; i < 4; ++i) {
            bench.call(bench.random(60), 8, run); // a run that lives on while others come
        }
        bench.scheduler.end_run(run - 1 == 1 ? NO_RUN : run - 1);
    }
    CHECK(bench.scheduler.stats().evictions > 20);
    CHECK(bench.call(bench.with_question(document), 4, 1).n_prefilled == 4);

    bench.scheduler.end_run(1);
    for (int i = 0; i < 4; ++i) {
        bench.call(bench.random(150), 8);
    }
    CHECK(!bench.has(document));
}

// nor does the run itself lose it over many smaller prompts
static void test_long_prefix_outlasts_short_ones_of_its_run(const Model & model) {
    SmallBench   bench(model);
    const Tokens document = bench.random(200);
    bench.call(document, 0, 1);
    for (int i = 0; i < 20; ++i) {
        CHECK(bench.call(bench.random(60), 8, 1).n_prefilled == 60);
    }
    CHECK(bench.call(bench.with_question(document), 4, 1).n_prefilled == 4);
}

// sync branches come in waves: six, and two when a thread is free; in between, others fill the cache
static void test_prefix_outlasts_the_gap_between_waves(const Model & model) {
    SmallBench   bench(model);
    const Tokens document = bench.random(200);
    const auto   wave     = [&](int n) {
        std::vector<kvf_branch_id> ids;
        for (int i = 0; i < n; ++i) {
            ids.push_back(bench.submit(bench.with_question(document), 8, 1));
        }
        run_to_end(bench.scheduler, bench.records);
        uint32_t n_prefilled = 0;
        for (const kvf_branch_id id : ids) {
            n_prefilled += bench.records[id].usage.n_prefilled;
        }
        return n_prefilled;
    };
    CHECK(wave(6) == 200 + 6 * 4);
    CHECK(bench.scheduler.stats().snapshots_kept == 6);
    for (int i = 0; i < 12; ++i) {
        bench.call(bench.random(90), 8, 2);
    }
    // the tails of the six had to go, and what another run keeps; but not their trunk
    CHECK(bench.scheduler.stats().evictions > 6);
    CHECK(wave(2) == 2 * 4);
}

// a snapshot that goes because another sequence has most of it leaves its runs to that one
static void test_kept_prefix_is_handed_on(const Model & model) {
    SmallBench   bench(model);
    const Tokens document = bench.random(200);
    bench.call(document, 0, 1);
    for (int i = 0; i < 3; ++i) { // the same document, for no run; one of them stays, whichever
        bench.call(bench.with_question(document), 30);
        bench.call(bench.random(120), 8, 2);
        bench.call(bench.random(120), 8, 2);
        bench.call(bench.random(120), 8, 2);
        CHECK(bench.has(document));
    }
    const kvf_branch_id decoding = bench.submit(bench.with_question(document), 40);
    bench.step();
    bench.step();
    const uint64_t n_evicted = bench.scheduler.stats().evictions;
    bench.submit(bench.random(120), 8, 2);
    bench.step();
    CHECK(bench.scheduler.stats().evictions == n_evicted + 1); // now it is the decoding branch that has the document
    run_to_end(bench.scheduler, bench.records);
    CHECK(bench.records[decoding].finish == KVF_FINISH_LENGTH && bench.records[decoding].usage.n_forked == 200);
    for (int i = 0; i < 8; ++i) {
        bench.call(bench.random(120), 8, 2);
    }
    CHECK(bench.has(document));
}

// a run that keeps more than fits evicts what it keeps itself
static void test_run_that_keeps_too_much_goes_on_within_its_own(const Model & model) {
    SmallBench          bench(model);
    const Tokens        document = bench.random(200);
    std::vector<Tokens> parts;
    bench.call(document, 0, 1);
    for (int i = 0; i < 20; ++i) {
        parts.push_back(bench.random(80));
        CHECK(bench.call(parts.back(), 8, 2).n_prefilled == 80);
    }
    CHECK(bench.has(document));
    CHECK(bench.has(parts[19]) && bench.has(parts[18]) && !bench.has(parts[0])); // least recently used first

    for (int i = 0; i < 20; ++i) { // all at once
        bench.submit(parts[i], 30, 2);
    }
    run_to_end(bench.scheduler, bench.records);
    for (const auto & [id, record] : bench.records) {
        CHECK(record.error == KVF_ERROR_NONE);
    }
    CHECK(bench.has(document));
}

// what fits into an empty cache is never refused, and waits only for what runs
static void test_nothing_is_refused_for_what_is_kept(const Model & model) {
    SmallBench   bench(model);
    const Tokens document = bench.random(200);
    bench.call(document, 0, 1);

    const kvf_branch_id first  = bench.submit(bench.random(100), 20);
    const kvf_branch_id second = bench.submit(bench.random(300), 4);
    while (bench.records[first].finish == KVF_FINISH_NONE) {
        CHECK(bench.records[second].tokens.empty());
        bench.step();
    }
    run_to_end(bench.scheduler, bench.records); // there is room now, since what the first one left is not kept
    CHECK(bench.records[second].finish == KVF_FINISH_LENGTH);
    CHECK(bench.has(document));

    CHECK(bench.call(bench.random(400), 4).n_prefilled == 400); // it would not fit otherwise
    CHECK(!bench.has(document));
}

static void test_youngest_branch_gives_way_before_what_others_keep(const Model & model) {
    SmallBench   bench(model);
    const Tokens document = bench.random(200);
    bench.call(document, 0, 1);
    const kvf_branch_id first  = bench.submit(bench.random(60), 150);
    const kvf_branch_id second = bench.submit(bench.random(60), 150);
    run_to_end(bench.scheduler, bench.records);
    CHECK(bench.records[first].usage.n_preempted == 0 && bench.records[second].usage.n_preempted > 0);
    CHECK(bench.records[first].tokens.size() == 150 && bench.records[second].tokens.size() == 150);
    CHECK(bench.has(document));

    CHECK(bench.call(bench.random(60), 400).n_generated == 400); // alone, it has all that it needs
    CHECK(!bench.has(document));
}

static void test_nobody_waits_for_sequences_that_are_kept(const Model & model) {
    SmallBench bench(model, /* n_seq_max = */ 4);
    for (kvf_run_id run = 1; run <= 12; ++run) { // more runs than sequences, none of which ends
        CHECK(bench.call(bench.random(20), 4, run).n_prefilled == 20);
        bench.submit(bench.random(20), 4, run);
        bench.submit(bench.random(20), 4, run);
        run_to_end(bench.scheduler, bench.records);
    }
    CHECK(bench.scheduler.stats().snapshots_kept == 4);
}

static void test_run_that_nothing_is_heard_of_keeps_nothing(const Model & model) {
    SmallBench   bench(model, 32, /* run_limit = */ kvf::Clock::duration::zero());
    const Tokens document = bench.random(200);
    bench.call(document, 0, 1);
    CHECK(bench.scheduler.stats().snapshots == 1 && bench.scheduler.stats().snapshots_kept == 0);
    for (int i = 0; i < 4; ++i) {
        bench.call(bench.random(100), 4);
    }
    CHECK(!bench.has(document));
}

// the end of a run that still has branches, and a late end, are ends
static void test_ended_run_keeps_nothing(const Model & model) {
    SmallBench bench(model);
    bench.submit(bench.random(80), 8, 1);
    bench.step();
    bench.scheduler.end_run(1);
    bench.scheduler.end_run(1);
    bench.scheduler.end_run(77);
    run_to_end(bench.scheduler, bench.records);
    CHECK(bench.scheduler.stats().snapshots == 1 && bench.scheduler.stats().snapshots_kept == 0);

    // two runs read the same document, and the one that computed it ends first
    const Tokens document = bench.random(200);
    bench.call(document, 0, 2);
    bench.call(document, 0, 3);
    CHECK(bench.scheduler.stats().snapshots_kept == 1);
    bench.scheduler.end_run(2);
    CHECK(bench.scheduler.stats().snapshots_kept == 1);
    bench.scheduler.end_run(3);
    CHECK(bench.scheduler.stats().snapshots_kept == 0);
}

int main(int argc, char ** argv) {
    CHECK(argc == 2);
    const Model model(argv[1]);
    test_prefix_of_a_run_outlasts_what_others_leave(model);
    test_long_prefix_outlasts_short_ones_of_its_run(model);
    test_prefix_outlasts_the_gap_between_waves(model);
    test_kept_prefix_is_handed_on(model);
    test_run_that_keeps_too_much_goes_on_within_its_own(model);
    test_nothing_is_refused_for_what_is_kept(model);
    test_youngest_branch_gives_way_before_what_others_keep(model);
    test_nobody_waits_for_sequences_that_are_kept(model);
    test_run_that_nothing_is_heard_of_keeps_nothing(model);
    test_ended_run_keeps_nothing(model);
    return 0;
}
