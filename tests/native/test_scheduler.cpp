// The scheduler, driven step by step without a thread, on a small model: counts are exact, schedules repeat.
//
// usage: test_scheduler MODEL.gguf

#include "harness.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <thread>

using kvf::Scheduler;

static size_t n_trie_nodes(const std::vector<Tokens> & prompts) {
    kvf::PrefixTree tree;
    for (size_t i = 0; i < prompts.size(); ++i) {
        tree.insert(static_cast<llama_seq_id>(i), prompts[i]);
    }
    return tree.n_tokens();
}

// eight prompts that share 70 tokens, two of them a few more
static std::vector<Tokens> fan_out(const Model & model) {
    std::mt19937        rng(1);
    const Tokens        shared = random_tokens(rng, 70, model.n_vocab());
    std::vector<Tokens> prompts;
    for (int i = 0; i < 8; ++i) {
        Tokens prompt = shared;
        for (const llama_token token : random_tokens(rng, 5 + i, model.n_vocab())) {
            prompt.push_back(token);
        }
        prompts.push_back(prompt);
    }
    std::copy_n(prompts[0].begin() + 70, 3, prompts[1].begin() + 70);
    return prompts;
}

static void test_shared_prefix_is_prefilled_once(const Model & model) {
    const std::vector<Tokens> prompts = fan_out(model);
    for (const int n_steps_apart : { 0, 1, 2, 5 }) { // at once; half way through the prefill; while others decode
        Context                         context(model, model.params(1024, 32, 16));
        Scheduler                       scheduler(context.ctx.get());
        std::map<kvf_branch_id, Record> records;
        std::vector<kvf::Event>         events;
        for (size_t i = 0; i < prompts.size(); ++i) {
            scheduler.submit(make_branch(model, i + 1, make_request(prompts[i], 20)));
            for (int k = 0; k < n_steps_apart; ++k) {
                scheduler.step(events);
                record(records, events);
            }
        }
        run_to_end(scheduler, records);

        size_t n_private = 0;
        for (size_t i = 0; i < prompts.size(); ++i) {
            n_private += prompts[i].size() + 19; // the last token generated is never put into the cache
        }
        const kvf_stats stats = scheduler.stats();
        CHECK(stats.prefilled_tokens == n_trie_nodes(prompts));
        CHECK(stats.forks == 7);
        CHECK(stats.generated_tokens == 8 * 20);
        // shared but for the page that each fork begins in: 6 of the 70 tokens, or 9 of 73
        CHECK(stats.cells_used_max == n_private - 7 * 70 - 3 + 6 * 6 + 9);
        CHECK(stats.snapshots == 8);

        // the same again: what is known to its end costs one token, for its logits
        for (size_t i = 0; i < prompts.size(); ++i) {
            scheduler.submit(make_branch(model, i + 101, make_request(prompts[i], 1)));
        }
        run_to_end(scheduler, records);
        CHECK(scheduler.stats().prefilled_tokens == stats.prefilled_tokens + 8);

        scheduler.clear();
        CHECK(scheduler.stats().cells_used == 0);
        CHECK(scheduler.stats().snapshots == 0);
    }
}

// a caller's time limit for silence must not hit those whose prefix somebody else computes
static void test_those_who_wait_for_a_prefix_hear_of_its_progress(const Model & model) {
    const std::vector<Tokens> prompts = fan_out(model);
    Context                   context(model, model.params(1024, 32, 16));
    Scheduler                 scheduler(context.ctx.get());
    std::vector<kvf::Event>   events;
    for (size_t i = 0; i < prompts.size(); ++i) {
        scheduler.submit(make_branch(model, i + 1, make_request(prompts[i], 1)));
    }
    for (const uint32_t n_done : { 32, 64, 70 }) { // at 70 the first pauses, for the others to fork it
        scheduler.step(events);
        CHECK(events.size() == prompts.size());
        for (const kvf::Event & event : events) {
            CHECK(event.head.type == KVF_EVENT_PREFILL && event.head.n_done == n_done);
            CHECK(event.head.usage.n_prompt == prompts[event.head.branch_id - 1].size());
        }
        events.clear();
    }
}

static void test_those_who_wait_in_line_hear_that_it_moves(const Model & model) {
    std::mt19937            rng(5);
    Context                 context(model, model.params(256, 32, 1)); // one at a time
    Scheduler               scheduler(context.ctx.get());
    std::vector<kvf::Event> events;
    for (int i = 1; i <= 3; ++i) {
        scheduler.submit(make_branch(model, i, make_request(random_tokens(rng, 40, model.n_vocab()), 1)));
    }
    scheduler.step(events);
    CHECK(events.size() == 3);
    for (const kvf::Event & event : events) {
        CHECK(event.head.type == KVF_EVENT_PREFILL && event.head.n_done == (event.head.branch_id == 1 ? 32 : 0));
    }
    events.clear();
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    scheduler.step(events); // the first comes to its end, and the others hear of it
    for (const kvf_branch_id waiting : { 2, 3 }) {
        CHECK(std::count_if(events.begin(), events.end(), [&](const kvf::Event & event) {
                  return event.head.branch_id == waiting && event.head.type == KVF_EVENT_PREFILL;
              }) == 1);
    }
}

static void test_prefill_ahead(const Model & model) {
    const std::vector<Tokens> prompts = fan_out(model);
    const Tokens              shared(prompts[0].begin(), prompts[0].begin() + 70);
    Context                   context(model, model.params(1024, 32, 16));
    Scheduler                 scheduler(context.ctx.get());

    std::map<kvf_branch_id, Record> records;
    scheduler.submit(make_branch(model, 1, make_request(shared, 0)));
    run_to_end(scheduler, records);
    CHECK(records[1].finish == KVF_FINISH_PREFILLED);
    CHECK(scheduler.stats().prefilled_tokens == 70);

    scheduler.submit(make_branch(model, 2, make_request(shared, 0))); // is there already
    scheduler.submit(make_branch(model, 3, make_request(prompts[0], 2)));
    run_to_end(scheduler, records);
    CHECK(records[2].usage.n_forked == 70 && records[2].usage.n_prefilled == 0 && records[2].usage.parent_id == 1);
    CHECK(records[3].usage.n_forked == 70 && records[3].usage.n_prefilled == 5 && records[3].usage.parent_id == 1);
}

static void test_sharing_can_be_switched_off(const Model & model) {
    const std::vector<Tokens>       prompts = fan_out(model);
    Context                         context(model, model.params(1024, 32, 16));
    Scheduler                       scheduler(context.ctx.get());
    std::map<kvf_branch_id, Record> records;
    size_t                          n_tokens = 0;
    for (size_t i = 0; i < prompts.size(); ++i) {
        kvf_request request = make_request(prompts[i], 3);
        request.share       = false;
        scheduler.submit(make_branch(model, i + 1, request));
        n_tokens += prompts[i].size();
    }
    run_to_end(scheduler, records);
    CHECK(scheduler.stats().prefilled_tokens == n_tokens);
    CHECK(scheduler.stats().forks == 0 && scheduler.stats().snapshots == 0 && scheduler.stats().cells_used == 0);
}

// when the owner of a prefix goes while others wait for it, the first of them takes over
static void test_owner_of_a_prefix_is_cancelled(const Model & model) {
    const std::vector<Tokens>       prompts = fan_out(model);
    Context                         context(model, model.params(1024, 32, 16));
    Scheduler                       scheduler(context.ctx.get());
    std::map<kvf_branch_id, Record> records;
    std::vector<kvf::Event>         events;
    for (size_t i = 0; i < prompts.size(); ++i) {
        scheduler.submit(make_branch(model, i + 1, make_request(prompts[i], 4)));
    }
    scheduler.step(events);
    scheduler.cancel(1, events);
    record(records, events);
    CHECK(records[1].finish == KVF_FINISH_CANCELLED);
    run_to_end(scheduler, records);
    for (size_t i = 1; i < prompts.size(); ++i) {
        CHECK(records[i + 1].finish == KVF_FINISH_LENGTH && records[i + 1].tokens.size() == 4);
    }
    // its 32 tokens stay as a snapshot, and the first in line goes on from there
    const std::vector<Tokens> others(prompts.begin() + 1, prompts.end());
    CHECK(scheduler.stats().prefilled_tokens == n_trie_nodes(others));
}

static void test_least_recently_used_snapshot_goes_first(const Model & model) {
    std::mt19937                    rng(2);
    Context                         context(model, model.params(256, 64, 16));
    Scheduler                       scheduler(context.ctx.get());
    std::map<kvf_branch_id, Record> records;
    std::vector<Tokens>             prompts;
    for (int i = 0; i < 4; ++i) {
        prompts.push_back(random_tokens(rng, 60, model.n_vocab()));
    }
    kvf_branch_id id  = 0;
    const auto    run = [&](const Tokens & tokens) {
        scheduler.submit(make_branch(model, ++id, make_request(tokens, 0)));
        run_to_end(scheduler, records);
        return records[id].usage.n_prefilled;
    };
    const uint32_t n_cells = scheduler.stats().cells_total;
    CHECK(n_cells == 256); // four of 60 fit, the fifth does not
    for (const Tokens & prompt : prompts) {
        CHECK(run(prompt) == 60);
    }
    CHECK(run(prompts[0]) == 0);                               // used again, so the second is now the oldest
    CHECK(run(random_tokens(rng, 60, model.n_vocab())) == 60); // takes the second one's place
    CHECK(scheduler.stats().evictions == 1);
    CHECK(run(prompts[0]) == 0 && run(prompts[2]) == 0 && run(prompts[3]) == 0);
    CHECK(run(prompts[1]) == 60);
}

static void test_preempted_branches_resume(const Model & model) {
    std::mt19937                    rng(3);
    Context                         context(model, model.params(256, 16, 16));
    Scheduler                       scheduler(context.ctx.get());
    std::map<kvf_branch_id, Record> records;
    for (int i = 1; i <= 6; ++i) { // six times 30 + 60 tokens in 256 cells
        scheduler.submit(make_branch(model, i, make_request(random_tokens(rng, 30, model.n_vocab()), 60)));
    }
    std::vector<kvf::Event> events;
    while (!scheduler.idle()) {
        scheduler.step(events);
        CHECK(!events.empty()); // also while it computes again what it has told
        record(records, events);
    }
    CHECK(scheduler.stats().preemptions > 0);
    CHECK(records[1].usage.n_preempted == 0); // the oldest never gives way
    for (int i = 1; i <= 6; ++i) {
        CHECK(records[i].finish == KVF_FINISH_LENGTH && records[i].tokens.size() == 60);
    }
}

static void test_text_ends_where_the_context_ends(const Model & model) {
    std::mt19937                    rng(4);
    Context                         context(model, model.params(256, 64, 4));
    Scheduler                       scheduler(context.ctx.get());
    std::map<kvf_branch_id, Record> records;
    scheduler.submit(make_branch(model, 1, make_request(random_tokens(rng, 200, model.n_vocab()), -1)));
    scheduler.submit(make_branch(model, 2, make_request(random_tokens(rng, 256, model.n_vocab()), -1)));
    run_to_end(scheduler, records);
    CHECK(records[1].finish == KVF_FINISH_LENGTH && records[1].tokens.size() == 57); // the last is not in the cache
    CHECK(records[2].finish == KVF_FINISH_LENGTH && records[2].tokens.size() == 1);
}

static void test_one_sequence_is_enough(const Model & model) {
    const std::vector<Tokens>       prompts = fan_out(model);
    Context                         context(model, model.params(256, 64, 1));
    Scheduler                       scheduler(context.ctx.get());
    std::map<kvf_branch_id, Record> records;
    for (size_t i = 0; i < prompts.size(); ++i) {
        scheduler.submit(make_branch(model, i + 1, make_request(prompts[i], 5)));
    }
    run_to_end(scheduler, records);
    for (size_t i = 0; i < prompts.size(); ++i) {
        CHECK(records[i + 1].finish == KVF_FINISH_LENGTH && records[i + 1].tokens.size() == 5);
    }
}

static void test_running_branch_is_forked(const Model & model) {
    std::mt19937                    rng(5);
    Context                         context(model, model.params(512, 64, 8));
    Scheduler                       scheduler(context.ctx.get());
    std::map<kvf_branch_id, Record> records;
    std::vector<kvf::Event>         events;
    kvf_request                     request;
    const Tokens                    prompt = random_tokens(rng, 40, model.n_vocab());
    request                                = make_request(prompt, 30);
    request.sampling.temperature           = 2.0f;
    scheduler.submit(make_branch(model, 1, request));
    for (int i = 0; i < 10; ++i) {
        scheduler.step(events);
        record(records, events);
    }
    CHECK(records[1].tokens.size() == 10);
    scheduler.fork(1, 2, LLAMA_DEFAULT_SEED, events);
    scheduler.fork(1, 3, 77, events);
    scheduler.fork(9, 4, 77, events);
    record(records, events);
    run_to_end(scheduler, records);

    const Tokens rest(records[1].tokens.begin() + 10, records[1].tokens.end());
    CHECK(records[2].tokens.size() == 20 && records[3].tokens.size() == 20);
    CHECK(records[2].tokens == rest); // the random state came along
    CHECK(records[3].tokens != rest);
    CHECK(records[2].usage.n_prompt == 50 && records[2].usage.n_prefilled == 1 && records[2].usage.parent_id == 1);
    CHECK(records[4].finish == KVF_FINISH_ERROR && records[4].error == KVF_ERROR_UNKNOWN);
}

// The grammar begins where the first of them began to generate, and holds for all that come from it, to its end.
static void test_forks_of_forks_keep_their_grammar(const Model & model) {
    std::mt19937                    rng(15);
    Context                         context(model, model.params(1024, 64, 16));
    Scheduler                       scheduler(context.ctx.get());
    std::map<kvf_branch_id, Record> records;
    std::vector<kvf::Event>         events;
    std::map<kvf_branch_id, Tokens> before; // what a fork's ancestors had generated
    const Tokens                    prompt  = random_tokens(rng, 40, model.n_vocab());
    kvf_request                     request = make_request(prompt, 40);
    request.sampling.temperature            = 2.0f;
    request.grammar = "root ::= \"1\" \"2\" \"3\" \"a\" \"b\" \"c\" [0-4] [0-4] [0-4] [5-9] [5-9] [5-9] ([0-3] [c-f])*";
    const auto steps = [&](int n) {
        for (int i = 0; i < n; ++i) {
            scheduler.step(events);
            record(records, events);
        }
    };
    const auto fork = [&](kvf_branch_id parent, kvf_branch_id child, uint32_t seed) {
        scheduler.fork(parent, child, seed, events);
        record(records, events);
        before[child] = before[parent];
        before[child].insert(before[child].end(), records[parent].tokens.begin(), records[parent].tokens.end());
    };
    scheduler.submit(make_branch(model, 1, request));
    steps(3);
    kvf_branch_id id = 1;
    for (const uint32_t seed : { 7u, 8u, LLAMA_DEFAULT_SEED, 9u }) { // a fork of a fork of a fork of a fork
        fork(id, id + 1, seed);
        fork(id, id + 11, seed + 100);
        ++id;
        steps(3);
    }
    run_to_end(scheduler, records);

    CHECK(records.size() == 9);
    for (const auto & [branch, r] : records) {
        CHECK(r.finish == KVF_FINISH_LENGTH);
        Tokens all = before[branch];
        all.insert(all.end(), r.tokens.begin(), r.tokens.end());
        CHECK(all.size() == 40);
        CHECK(r.usage.n_prompt == prompt.size() + before[branch].size()); // to a fork, all of it is a prompt
        std::string text;
        for (const llama_token token : all) {
            text += common_token_to_piece(llama_model_get_vocab(model.model.get()), token);
        }
        CHECK(text.compare(0, 6, "123abc") == 0);
        for (size_t i = 6; i < text.size(); ++i) {
            const char * allowed = i < 9 ? "01234" : i < 12 ? "56789" : i % 2 == 0 ? "0123" : "cdef";
            CHECK(std::strchr(allowed, text[i]));
        }
    }
}

// Like for like: in the same chunks, one branch at a time, a fork's logits are those of an unforked run, bit for bit.
static void test_fork_computes_what_an_unforked_run_computes(const Model & model) {
    const std::vector<Tokens>       prompts = fan_out(model);
    const Tokens                    shared(prompts[0].begin(), prompts[0].begin() + 70);
    const llama_context_params      params = model.params(512, 32, 16);
    Context                         context(model, params);
    Scheduler                       scheduler(context.ctx.get());
    std::map<kvf_branch_id, Record> records;
    scheduler.submit(make_branch(model, 100, make_request(shared, 0)));
    run_to_end(scheduler, records);

    for (size_t i = 0; i < prompts.size(); ++i) {
        kvf_request request = make_request(prompts[i], 12);
        request.n_logprobs  = model.n_vocab();
        scheduler.submit(make_branch(model, i + 1, request));
        run_to_end(scheduler, records);
        const Record & r        = records[i + 1];
        const size_t   n_forked = i == 1 ? 73 : 70; // it shares three more with the one before
        CHECK(r.usage.n_forked == n_forked);

        Context    fresh(model, params);
        const auto decode = [&](Tokens tokens) {
            const auto n = static_cast<int32_t>(tokens.size());
            CHECK(llama_decode(fresh.ctx.get(), llama_batch_get_one(tokens.data(), n)) == 0);
            const float * logits = llama_get_logits_ith(fresh.ctx.get(), -1);
            return std::vector<float>(logits, logits + model.n_vocab());
        };
        if (n_forked > 70) {
            continue; // its chunks were those of two branches
        }
        decode({ shared.begin(), shared.begin() + 32 });
        decode({ shared.begin() + 32, shared.begin() + 64 });
        decode({ shared.begin() + 64, shared.end() });
        std::vector<float> expected = decode({ prompts[i].begin() + 70, prompts[i].end() });
        for (size_t k = 0; k < r.tokens.size(); ++k) {
            CHECK(logits_of(r.logprobs[k]) == expected);
            expected = decode({ r.tokens[k] });
        }
    }
}

// 200 requests that come, fork and go in random steps say the same in a rerun of the same schedule
static void test_same_schedule_same_tokens(const Model & model) {
    const auto run = [&] {
        std::mt19937                    rng(6);
        Context                         context(model, model.params(1024, 64, 12));
        Scheduler                       scheduler(context.ctx.get());
        std::map<kvf_branch_id, Record> records;
        std::vector<kvf::Event>         events;
        const Tokens                    family = random_tokens(rng, 80, model.n_vocab());
        kvf_branch_id                   id     = 0;
        while (id < 200 || !scheduler.idle()) {
            for (uint32_t i = rng() % 4; i > 0 && id < 200; --i) {
                if (id > 4 && rng() % 5 == 0) {
                    scheduler.fork(id - rng() % 4, id + 1, rng() % 2 ? 5 : LLAMA_DEFAULT_SEED, events);
                    ++id;
                    continue;
                }
                Tokens prompt(family.begin(), family.begin() + rng() % 80);
                for (const llama_token token : random_tokens(rng, 1 + rng() % 20, model.n_vocab())) {
                    prompt.push_back(token);
                }
                kvf_request request          = make_request(prompt, static_cast<int32_t>(rng() % 40));
                request.sampling.temperature = (rng() % 3) * 0.7f;
                request.sampling.seed        = rng();
                request.run_id               = rng() % 4;
                scheduler.submit(make_branch(model, ++id, request));
            }
            if (rng() % 8 == 0 && id > 0) {
                scheduler.cancel(1 + rng() % id, events);
            }
            if (rng() % 8 == 0) {
                scheduler.end_run(1 + rng() % 3);
            }
            scheduler.step(events);
            record(records, events);
        }
        scheduler.clear();
        CHECK(scheduler.stats().cells_used == 0);
        return records;
    };
    const auto first  = run();
    const auto second = run();
    CHECK(first.size() == 200);
    for (const auto & [id, r] : first) {
        CHECK(r.finish != KVF_FINISH_NONE);
        CHECK(r.tokens == second.at(id).tokens && r.finish == second.at(id).finish);
    }
}

int main(int argc, char ** argv) {
    CHECK(argc == 2);
    const Model model(argv[1]);
    test_shared_prefix_is_prefilled_once(model);
    test_those_who_wait_for_a_prefix_hear_of_its_progress(model);
    test_those_who_wait_in_line_hear_that_it_moves(model);
    test_prefill_ahead(model);
    test_sharing_can_be_switched_off(model);
    test_owner_of_a_prefix_is_cancelled(model);
    test_least_recently_used_snapshot_goes_first(model);
    test_preempted_branches_resume(model);
    test_text_ends_where_the_context_ends(model);
    test_one_sequence_is_enough(model);
    test_running_branch_is_forked(model);
    test_forks_of_forks_keep_their_grammar(model);
    test_fork_computes_what_an_unforked_run_computes(model);
    test_same_schedule_same_tokens(model);
    return 0;
}
