// However many branches wait, for room or for a prefix that another one computes, a step does the same work; and each of
// them has its turn.
//
// usage: test_waiting MODEL.gguf

#include "harness.h"

using kvf::Scheduler;

static constexpr uint32_t N_SEQ = 8;

// Eight branches that decode, or one that prefills for long, and many who wait.
struct Crowd {
    Context                         context;
    Scheduler                       scheduler;
    std::map<kvf_branch_id, Record> records;
    std::vector<kvf::Event>         events;
    kvf_branch_id                   n_branches = 0;

    explicit Crowd(const Model & model) : context(model, model.params(4096, 64, N_SEQ)), scheduler(context.ctx.get()) {}

    void submit(const Model & model, const Tokens & prompt, int32_t n_predict, bool share = true) {
        kvf_request request = make_request(prompt, n_predict);
        request.share       = share;
        scheduler.submit(make_branch(model, ++n_branches, request));
    }

    // branches that a step looks at, and how many it tells of it
    struct Work {
        uint64_t n_looked_at;
        size_t   n_events;
    };

    Work step(int n_steps) {
        const uint64_t before = scheduler.n_looked_at();
        size_t         n      = 0;
        for (int i = 0; i < n_steps; ++i) {
            scheduler.step(events);
            n += events.size();
            record(records, events);
        }
        return { scheduler.n_looked_at() - before, n };
    }
};

static void test_waiting_costs_no_step_time(const Model & model) {
    std::mt19937 rng(1);
    const Tokens shared = random_tokens(rng, 900, model.n_vocab());
    for (const bool for_a_prefix : { false, true }) {
        std::vector<Crowd::Work> work;
        for (const uint32_t n_waiting : { 100, 1000, 10000 }) {
            Crowd crowd(model);
            for (uint32_t i = 0; i < (for_a_prefix ? 1 : N_SEQ); ++i) {
                crowd.submit(model, for_a_prefix ? shared : random_tokens(rng, 8, model.n_vocab()), 300);
            }
            for (uint32_t i = 0; i < n_waiting; ++i) {
                Tokens prompt = for_a_prefix ? shared : random_tokens(rng, 3, model.n_vocab());
                prompt.push_back(static_cast<llama_token>(i % model.n_vocab()));
                crowd.submit(model, prompt, 4);
            }
            crowd.step(2); // where each is looked at once
            work.push_back(crowd.step(8));
            std::printf("%u wait: %llu branches looked at in 8 steps, %zu events\n", n_waiting,
                        (unsigned long long)work.back().n_looked_at, work.back().n_events);
            CHECK(crowd.scheduler.stats().branches_waiting == n_waiting);
        }
        for (const Crowd::Work & one : work) { // of a hundred, who was told a moment ago is not told again
            CHECK(one.n_looked_at == work[0].n_looked_at);
            CHECK(one.n_events <= one.n_looked_at);
        }
        CHECK(work[0].n_looked_at <= 8 * (N_SEQ + 1 + 64));
    }
}

static void test_each_has_its_turn(const Model & model) {
    std::mt19937 rng(2);
    Crowd        crowd(model);
    const Tokens shared = random_tokens(rng, 100, model.n_vocab());
    for (uint32_t i = 0; i < 300; ++i) {
        Tokens prompt = random_tokens(rng, 3, model.n_vocab());
        if (i % 3 == 0) {
            prompt.insert(prompt.begin(), shared.begin(), shared.begin() + 20 + i / 4);
        }
        crowd.submit(model, prompt, 3, i % 7 != 0);
        if (i % 10 == 0) {
            crowd.scheduler.cancel(1 + rng() % crowd.n_branches, crowd.events); // of those who wait and those who run
        }
        if (i % 40 == 0) {
            crowd.step(3);
        }
    }
    run_to_end(crowd.scheduler, crowd.records);
    record(crowd.records, crowd.events);
    CHECK(crowd.records.size() == 300);
    size_t n_cancelled = 0;
    for (const auto & [id, r] : crowd.records) {
        CHECK(r.finish == KVF_FINISH_LENGTH || r.finish == KVF_FINISH_CANCELLED);
        n_cancelled += r.finish == KVF_FINISH_CANCELLED;
    }
    CHECK(n_cancelled > 10 && n_cancelled < 40);
    CHECK(crowd.scheduler.stats().branches_waiting == 0 && crowd.scheduler.stats().branches_running == 0);
}

// Those who wait hear of it, in turns.
static void test_a_crowd_hears_that_it_moves(const Model & model) {
    std::mt19937 rng(3);
    Crowd        crowd(model);
    for (uint32_t i = 0; i < N_SEQ; ++i) {
        crowd.submit(model, random_tokens(rng, 8, model.n_vocab()), 300);
    }
    for (uint32_t i = 0; i < 200; ++i) {
        crowd.submit(model, random_tokens(rng, 4, model.n_vocab()), 1);
    }
    std::map<kvf_branch_id, int> heard;
    for (int i = 0; i < 4; ++i) { // 64 in each
        crowd.scheduler.step(crowd.events);
        for (const kvf::Event & event : crowd.events) {
            heard[event.head.branch_id] += event.head.type == KVF_EVENT_PREFILL && event.head.n_done == 0;
        }
        crowd.events.clear();
    }
    for (kvf_branch_id id = N_SEQ + 1; id <= crowd.n_branches; ++id) {
        CHECK(heard[id] >= 1);
    }
}

int main(int argc, char ** argv) {
    CHECK(argc == 2);
    const Model model(argv[1]);
    test_waiting_costs_no_step_time(model);
    test_each_has_its_turn(model);
    test_a_crowd_hears_that_it_moves(model);
    return 0;
}
