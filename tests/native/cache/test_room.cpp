// Room in a cache that is full of snapshots: where tokens are placed, what goes for them, and what does not.
//
// usage: test_room MODEL.gguf WINDOWED_MODEL.gguf HYBRID_MODEL.gguf

#include "harness.h"
#include "llama-fork.h"

namespace {

// eight branches with 300 tokens in common; the pages that all their steps read
uint64_t fan_out(Bench & bench) {
    const Tokens shared = bench.random(300);
    for (int i = 0; i < 8; ++i) {
        Tokens prompt = shared;
        prompt.push_back(i); // they part here
        bench.submit(bench.and_random(prompt, 9 + i), 90);
    }
    const kvf_stats before = bench.stats();
    run_to_end(bench.scheduler, bench.records);
    const kvf_stats after = bench.stats();
    CHECK(after.prefilled_tokens - before.prefilled_tokens == 300 + 8 * 10 + 28);
    CHECK(after.preemptions == before.preemptions);
    return after.pages_read - before.pages_read;
}

} // namespace

// in a cache that is full of snapshots, the branches of a fan-out read hardly more pages than in an empty one
static void test_placement_does_not_decay(const Model & model) {
    Bench          bench(model, model.params(4096, 256, 64));
    const uint64_t clean = fan_out(bench);
    for (int i = 0; i < 60; ++i) { // conversations of all lengths
        bench.call(bench.random(20 + bench.rng() % 150), 4 + static_cast<int32_t>(bench.rng() % 60));
    }
    CHECK(bench.stats().evictions > 0);
    for (int round = 0; round < 6; ++round) {
        const uint64_t n = fan_out(bench);
        std::fprintf(stderr, "pages read: %lu, in an empty cache: %lu\n", static_cast<unsigned long>(n),
                     static_cast<unsigned long>(clean));
        CHECK(100 * n <= 105 * clean);
    }
}

// What has to wait for a running branch drops nothing meanwhile: here a prompt with which both do not fit, however much
// else goes.
static void test_nothing_goes_for_what_cannot_start(const Model & model) {
    Bench        bench(model, model.params(1024, 128, 8));
    const Tokens document = bench.random(300);
    bench.call(document, 0);
    const kvf_branch_id first = bench.submit(bench.random(300), 100);
    bench.step();
    const kvf_branch_id second = bench.submit(bench.random(800), 4);
    for (int i = 0; i < 20; ++i) {
        bench.step();
    }
    CHECK(bench.stats().branches_waiting == 1 && bench.stats().evictions == 0);
    std::vector<kvf::Event> events;
    bench.scheduler.cancel(second, events);
    record(bench.records, events);
    CHECK(bench.call(bench.and_random(document, 8), 4).n_forked == 300);
    CHECK(bench.records[first].finish == KVF_FINISH_LENGTH);

    bench.submit(bench.random(800), 4); // alone, it has all that it needs
    run_to_end(bench.scheduler, bench.records);
    CHECK(bench.stats().evictions > 0 && bench.stats().preemptions == 0);
}

// nor for want of a sequence, as long as there is no room either
static void test_no_sequence_goes_for_what_cannot_start(const Model & model) {
    Bench        bench(model, model.params(1024, 128, 3));
    const Tokens document = bench.random(300);
    bench.call(document, 0);
    bench.call(bench.random(20), 0);
    bench.submit(bench.random(300), 60);
    bench.step();
    CHECK(bench.stats().snapshots == 2 && bench.stats().branches_running == 1);
    const kvf_branch_id second = bench.submit(bench.random(800), 4);
    for (int i = 0; i < 10; ++i) {
        bench.step();
    }
    CHECK(bench.stats().branches_waiting == 1 && bench.stats().evictions == 0);
    std::vector<kvf::Event> events;
    bench.scheduler.cancel(second, events);
    record(bench.records, events);
    CHECK(bench.call(bench.and_random(document, 8), 4).n_forked == 300);
}

// what runs keep to the last does not go for what can wait, and nothing else goes in its place
static void test_nothing_goes_if_what_is_kept_is_in_the_way(const Model & model) {
    Bench        bench(model, model.params(1024, 128, 8));
    const Tokens kept = bench.random(400);
    bench.call(kept, 0, /* run = */ 1);
    const Tokens document = bench.random(200);
    bench.call(document, 0);
    const kvf_branch_id first  = bench.submit(bench.random(100), 100);
    const kvf_branch_id second = bench.submit(bench.random(600), 4);
    for (int i = 0; i < 20; ++i) {
        bench.step();
    }
    CHECK(bench.stats().branches_waiting == 1 && bench.stats().evictions == 0);
    run_to_end(bench.scheduler, bench.records);
    CHECK(bench.records[first].finish == KVF_FINISH_LENGTH && bench.records[second].finish == KVF_FINISH_LENGTH);
}

// A window's cells hold a window and a batch of each sequence: a prompt of any length fits beside others.
static void test_long_prompt_starts_in_a_small_window(const Model & model, bool batch_invariant) {
    llama_context_params params = model.params(4096, 64, 8);
    params.swa_full             = false;
    Bench bench(model, params, { batch_invariant });
    CHECK(llama_memory_n_parts(llama_get_memory(bench.context.ctx.get())) == 2);
    CHECK(llama_memory_get_part(llama_get_memory(bench.context.ctx.get()), 1).n_cells == 512);

    const kvf_branch_id first  = bench.submit(bench.random(40), 80);
    const Tokens        prompt = bench.random(1500);
    const kvf_branch_id second = bench.submit(prompt, 4);
    const kvf_branch_id third  = bench.submit(bench.random(30), 4);
    bench.step();
    CHECK(bench.stats().branches_running == 3);
    run_to_end(bench.scheduler, bench.records);
    for (const kvf_branch_id id : { first, second, third }) {
        CHECK(bench.records[id].finish == KVF_FINISH_LENGTH && bench.records[id].usage.n_preempted == 0);
    }
    for (int i = 0; i < 12; ++i) { // and in a cache that is full
        bench.submit(bench.random(100 + bench.rng() % 900), 30);
    }
    run_to_end(bench.scheduler, bench.records);
    for (const auto & [id, r] : bench.records) {
        CHECK(r.finish == KVF_FINISH_LENGTH);
    }
    CHECK(bench.stats().evictions > 0);
    CHECK(bench.call(prompt, 1).n_prefilled > 0);
}

// A window's part with pages for a window and a batch only, which never begin at the start of a page: chunks are smaller
// then, and nobody gives way.
static void test_chunks_are_smaller_in_a_tight_window(const Model & model) {
    for (const bool batch_invariant : { false, true }) {
        for (const uint32_t n_seq_max : { 1u, 2u }) {
            llama_context_params params = model.params(4096, 256 - 32 * n_seq_max, n_seq_max);
            params.swa_full             = false;
            Bench bench(model, params, { batch_invariant });
            CHECK(bench.stats().parts[1].pages_total == 4);
            bench.submit(bench.random(37), 60);
            const Tokens prompt = bench.random(1500);
            bench.submit(prompt, 4);
            run_to_end(bench.scheduler, bench.records);
            CHECK(bench.stats().preemptions == 0 && bench.stats().prefilled_tokens == 1537);
            CHECK(bench.records[1].tokens.size() == 60 && bench.records[2].tokens.size() == 4);
        }
    }
}

// The owner of a prefix gives way while another branch waits for the prefix. It pauses there all the same when it computes
// it again: with recurrent states, there is no other moment to fork it.
static void test_preempted_owner_still_pauses_for_others(const Model & model) {
    Bench        bench(model, model.params(256, 16, 8));
    const Tokens shared = bench.random(100);
    for (int i = 0; i < 4; ++i) {
        bench.submit(bench.random(20), 60);
    }
    while (bench.records[4].tokens.size() < 15) {
        bench.step();
    }
    const kvf_branch_id owner  = bench.submit(bench.and_random(shared, 5), 4); // fits, but the others grow
    const kvf_branch_id waiter = bench.submit(bench.and_random(shared, 7), 4);
    run_to_end(bench.scheduler, bench.records);
    CHECK(bench.records[owner].usage.n_preempted > 0);
    CHECK(bench.records[waiter].usage.n_forked == 100 && bench.records[waiter].usage.n_prefilled == 7);
}

// What preemptions say they want is what it takes to have none.
static void test_what_would_have_been_enough(const Model & model) {
    const auto run = [&](uint32_t n_ctx) {
        Bench bench(model, model.params(n_ctx, 64, 16));
        for (int i = 0; i < 6; ++i) { // of two pages each
            bench.submit(bench.random(30), 60);
        }
        run_to_end(bench.scheduler, bench.records);
        uint64_t n_recomputed = 0;
        uint32_t n_wanted     = 0;
        for (const auto & [id, r] : bench.records) {
            CHECK(r.tokens.size() == 60 && (r.usage.n_preempted > 0) == (r.usage.n_recomputed > 0));
            n_recomputed += r.usage.n_recomputed;
            n_wanted = std::max(n_wanted, r.usage.n_cells_wanted);
        }
        const kvf_stats stats = bench.stats();
        CHECK(stats.recomputed_tokens == n_recomputed && stats.cells_wanted_max == n_wanted);
        CHECK(stats.preempted_tokens >= stats.recomputed_tokens);
        return stats;
    };
    const kvf_stats little = run(256);
    CHECK(little.preemptions > 0 && little.recomputed_tokens > 0);
    CHECK(little.cells_wanted_max > 256 && little.cells_wanted_max <= 14 * 64); // 12 pages, or little more
    const kvf_stats enough = run(little.cells_wanted_max);
    CHECK(enough.preemptions == 0 && enough.recomputed_tokens == 0 && enough.cells_wanted_max == 0);
}

// of a model with a window, both parts
static void test_parts_are_counted(const Model & model) {
    llama_context_params params = model.params(1024, 64, 4);
    params.swa_full             = false;
    Bench bench(model, params);
    bench.call(bench.random(200), 0);
    const kvf_stats stats = bench.stats();
    CHECK(stats.n_parts == 2);
    const kvf_part & all    = stats.parts[0];
    const kvf_part & window = stats.parts[1];
    CHECK(all.cells_total == 1024 && all.cells_used == 200 && all.pages_total == 16 && all.pages_empty == 12);
    CHECK(all.cells_total == stats.cells_total && all.cells_used == stats.cells_used && all.window == 0);
    CHECK(window.window == 32 && window.cells_total == 256 && window.pages_total == 4);
    CHECK(window.cells_used < 200 && window.pages_empty < 4);
}

static void test_reasons_for_evictions(const Model & model) {
    Bench bench(model, model.params(512, 64, 8)); // 8 pages
    bench.call(bench.random(200), 0);
    bench.call(bench.random(200), 0);
    CHECK(bench.stats().evictions == 0);
    bench.call(bench.random(60), 4); // takes a page to start
    CHECK(bench.stats().evictions == 1 && bench.stats().evictions_to_start == 1);
    bench.call(bench.random(192), 80); // 3 pages are free: it takes the fourth when it goes on
    CHECK(bench.stats().evictions == 2 && bench.stats().evictions_to_start == 1);
}

int main(int argc, char ** argv) {
    CHECK(argc == 4);
    const Model model(argv[1]);
    test_placement_does_not_decay(model);
    test_nothing_goes_for_what_cannot_start(model);
    test_no_sequence_goes_for_what_cannot_start(model);
    test_nothing_goes_if_what_is_kept_is_in_the_way(model);
    test_what_would_have_been_enough(model);
    test_reasons_for_evictions(model);
    const Model windowed(argv[2]);
    test_parts_are_counted(windowed);
    test_long_prompt_starts_in_a_small_window(windowed, false);
    test_long_prompt_starts_in_a_small_window(windowed, true);
    test_chunks_are_smaller_in_a_tight_window(windowed);
    test_preempted_owner_still_pauses_for_others(Model(argv[3]));
    return 0;
}
