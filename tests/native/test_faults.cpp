// Memory that runs out: of some work, one allocation fails, or some in a row do; each of them in turn. And llama_decode that
// fails, in each way that it has, in each step. Nothing aborts, nobody waits in vain, what comes out is what it would have been
// or an error, and afterwards everything works as before.
//
// usage: test_faults MODEL.gguf FOLDER [N_EACH]
// Of many allocations, the first N_EACH fail in turn, and then ever fewer of them. FOLDER is for a store.

#include "cache/prefix_tree.h"
#include "harness.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <new>
#include <set>
#include <stdexcept>

// ---------------------------------------------------------------------------------------------------------------------
// the allocator, in place of the library's

static std::atomic<int64_t> n_until{ INT64_MAX }; // allocations until one fails,
static std::atomic<int64_t> n_in_a_row{ 0 };      // and how many then do
static thread_local bool    is_spared = false;    // what this thread does is the test's

static void * allocate(size_t size) {
    if (!is_spared) {
        const int64_t n = n_until.fetch_sub(1);
        if (n <= 0 && n > -n_in_a_row) {
            return nullptr;
        }
    }
    return std::malloc(size > 0 ? size : 1);
}

void * operator new(size_t size) {
    void * memory = allocate(size);
    if (!memory) {
        throw std::bad_alloc();
    }
    return memory;
}

void * operator new[](size_t size) {
    return operator new(size);
}

void * operator new(size_t size, const std::nothrow_t &) noexcept {
    return allocate(size);
}

void * operator new[](size_t size, const std::nothrow_t &) noexcept {
    return allocate(size);
}

void operator delete(void * memory) noexcept {
    std::free(memory);
}

void operator delete[](void * memory) noexcept {
    std::free(memory);
}

void operator delete(void * memory, size_t) noexcept {
    std::free(memory);
}

void operator delete[](void * memory, size_t) noexcept {
    std::free(memory);
}

// While one lives, allocations fail: the n-th from now on, and the next ones.
class Fault {
  public:
    Fault(int64_t n, int64_t in_a_row) {
        n_in_a_row = in_a_row;
        n_until    = n;
    }
    ~Fault() {
        n_until    = INT64_MAX;
        n_in_a_row = 0;
    }
};

// the library's part of a test's work
template <typename Work>
static auto exposed(Work work) {
    is_spared         = false;
    const auto result = work();
    is_spared         = true;
    return result;
}

// ---------------------------------------------------------------------------------------------------------------------

using Records = std::map<kvf_branch_id, Record>;

// polls until these have ended
static Records poll_ends(kvf_engine * engine, const std::set<kvf_branch_id> & ids) {
    Records                records;
    std::vector<kvf_event> events(64);
    size_t                 n_ended = 0;
    while (n_ended < ids.size()) {
        const int32_t n = exposed([&] { return kvf_poll(engine, events.data(), events.size(), 60000); });
        CHECK(n > 0); // nobody waits in vain
        for (int32_t i = 0; i < n; ++i) {
            Record & r = records[events[i].branch_id];
            CHECK(ids.count(events[i].branch_id) == 1 && r.finish == KVF_FINISH_NONE);
            if (events[i].type == KVF_EVENT_TOKEN) {
                r.tokens.push_back(events[i].token);
            } else if (events[i].type == KVF_EVENT_DONE) {
                r.finish = static_cast<kvf_finish>(events[i].finish);
                r.error  = static_cast<kvf_error>(events[i].error);
                ++n_ended;
            }
        }
    }
    return records;
}

// The first of a number of allocations, each, then ever fewer.
static std::vector<int64_t> which(int64_t n_all, int64_t n_each) {
    std::vector<int64_t> out;
    for (int64_t n = 0; n < n_all; n += 1 + std::max<int64_t>(0, n - n_each) / n_each) {
        out.push_back(n);
    }
    return out;
}

// how many allocations some work makes
static int64_t count(const std::function<void()> & work) {
    n_until = INT64_MAX;
    work();
    return INT64_MAX - n_until;
}

// A fan-out of four that share most of their prompts, in a cache too small for them: one has a grammar, one draws and shows
// log-probabilities. A fork of the first, one that is cancelled, one that only prefills; and the end of their run.
class FanOut {
  public:
    explicit FanOut(const Model & model) {
        std::mt19937 rng(3);
        const Tokens shared = random_tokens(rng, 80, model.n_vocab());
        for (size_t i = 0; i < N_KNOWN + 2; ++i) {
            prompts_.push_back(shared);
            prompts_.back().resize(70 + 2 * i);
            prompts_.back().push_back(static_cast<llama_token>(i));
        }
    }

    // The tokens of the branches that are not interfered with, in their order; nothing of those that failed.
    std::vector<Tokens> run(kvf_engine * engine) const {
        std::vector<kvf_branch_id> ids;
        for (size_t i = 0; i < prompts_.size(); ++i) {
            kvf_request request = make_request(prompts_[i], i == N_KNOWN + 1 ? 0 : 8);
            request.run_id      = 1 + i % 2;
            if (i == 1) {
                request.grammar = "root ::= ([a-z] | \" \" | [^a-z])*";
            }
            if (i == 2) {
                request.sampling.temperature = 1.0f;
                request.n_logprobs           = 5;
            }
            ids.push_back(exposed([&] { return kvf_submit(engine, &request); }));
            if (ids.back() == 0) {
                CHECK(kvf_last_error_kind() != KVF_ERROR_NONE);
            }
        }
        ids.push_back(exposed([&] { return ids[0] ? kvf_fork(engine, ids[0], LLAMA_DEFAULT_SEED) : 0; }));
        ids.push_back(exposed([&] { return ids[2] ? kvf_fork(engine, ids[2], 7) : 0; }));
        if (ids[N_KNOWN]) {
            exposed([&] { return kvf_cancel(engine, ids[N_KNOWN]), 0; });
        }

        std::set<kvf_branch_id> waited(ids.begin(), ids.end());
        waited.erase(0);
        Records             records = poll_ends(engine, waited);
        std::vector<Tokens> tokens;
        for (size_t i = 0; i < ids.size(); ++i) {
            const Record & r = records[ids[i]];
            CHECK(!ids[i] || r.finish != KVF_FINISH_ERROR || r.error == KVF_ERROR_INTERNAL ||
                  r.error == KVF_ERROR_UNKNOWN || r.error == KVF_ERROR_OVERFLOW);
            CHECK(r.finish != KVF_FINISH_CANCELLED || i == N_KNOWN);
            CHECK(r.finish != KVF_FINISH_PREFILLED || i == N_KNOWN + 1);
            if (i < N_KNOWN) {
                tokens.push_back(r.finish == KVF_FINISH_LENGTH ? r.tokens : Tokens());
            }
        }
        exposed([&] { return kvf_end_run(engine, 1), 0; });
        return tokens;
    }

  private:
    static constexpr size_t N_KNOWN = 4;

    std::vector<Tokens> prompts_;
};

static bool is_whole(const std::vector<Tokens> & tokens) {
    return std::none_of(tokens.begin(), tokens.end(), [](const Tokens & t) { return t.empty(); });
}

static kvf_engine * make_engine(const Model & model, bool batch_invariant = false) {
    return kvf_engine_create(model.model.get(), model.params(batch_invariant ? 384 : 256, 64, 6), batch_invariant, 0.0);
}

// an empty engine, which has nothing left over from what failed before
static void clear(kvf_engine * engine) {
    CHECK(kvf_engine_clear(engine));
    const kvf_stats stats = kvf_engine_stats(engine);
    CHECK(stats.cells_used == 0 && stats.snapshots == 0 && stats.branches_running + stats.branches_waiting == 0);
    for (uint32_t i = 0; i < stats.n_parts; ++i) {
        CHECK(stats.parts[i].cells_used == 0 && stats.parts[i].pages_empty == stats.parts[i].pages_total);
    }
}

static void test_a_fan_out(const Model & model, bool batch_invariant, const char * store, int64_t n_each) {
    const FanOut fan_out(model);
    kvf_engine * engine = make_engine(model, batch_invariant);
    CHECK(engine);
    if (store) {
        CHECK(kvf_engine_open_store(engine, store, 1 << 20, "none", "model"));
    }
    const std::vector<Tokens> expected = fan_out.run(engine);
    CHECK(is_whole(expected));
    clear(engine);
    const int64_t n_all = count([&] { fan_out.run(engine); });
    clear(engine);

    size_t n_runs  = 0;
    size_t n_hurt  = 0;
    size_t n_whole = 0;
    for (const int64_t in_a_row : { 1, 40 }) {
        for (const int64_t n : which(n_all, n_each)) {
            std::vector<Tokens> tokens;
            {
                const Fault fault(n, in_a_row);
                tokens = fan_out.run(engine);
                if (n % 2) {
                    if (!exposed([&] { return kvf_engine_clear(engine); })) {
                        CHECK(kvf_last_error_kind() == KVF_ERROR_INTERNAL);
                    }
                }
            }
            for (size_t i = 0; i < expected.size(); ++i) { // right, or an error
                CHECK(tokens[i].empty() || tokens[i] == expected[i]);
                ++(tokens[i].empty() ? n_hurt : n_whole);
            }
            if (n_runs++ % 4 == 0) { // and usable afterwards, with what is left in the cache or without
                CHECK(fan_out.run(engine) == expected);
            }
            if (n_runs % 8 == 0) {
                clear(engine);
            }
        }
    }
    clear(engine);
    std::printf("%lld allocations, %zu runs: %zu branches failed, %zu did not\n", (long long)n_all, n_runs, n_hurt,
                n_whole);
    CHECK(n_hurt > 0 && n_whole > 0);
    kvf_engine_free(engine);
}

static void test_the_making_of_an_engine(const Model & model, int64_t n_each) {
    const FanOut  fan_out(model);
    const int64_t n_all  = count([&] { kvf_engine_free(exposed([&] { return make_engine(model); })); });
    size_t        n_made = 0;
    size_t        n_not  = 0;
    for (const int64_t n : which(n_all, n_each)) {
        kvf_engine * engine = nullptr;
        {
            const Fault fault(n, 1);
            engine = exposed([&] { return make_engine(model); });
        }
        if (engine) {
            CHECK(is_whole(fan_out.run(engine)));
            kvf_engine_free(engine);
        } else {
            CHECK(kvf_last_error_kind() != KVF_ERROR_NONE);
        }
        ++(engine ? n_made : n_not);
    }
    std::printf("%lld allocations: %zu engines, %zu refused\n", (long long)n_all, n_made, n_not);
    CHECK(n_not > 0);
}

// The tree holds what it held before a call that found no memory.
static void test_the_tree() {
    std::mt19937                   rng(1);
    kvf::PrefixTree                tree;
    std::map<llama_seq_id, Tokens> plain;
    const auto                     random   = [&](int n) { return static_cast<int>(rng() % static_cast<uint32_t>(n)); };
    size_t                         n_failed = 0;
    for (int round = 0; round < 20000; ++round) {
        const llama_seq_id seq    = random(24);
        const auto         known  = plain.find(seq);
        Tokens             tokens = known == plain.end() ? Tokens() : known->second;
        const int          what   = known == plain.end() ? 0 : 1 + random(5);
        if (what == 0) {
            if (!plain.empty()) { // mostly begin like another one
                tokens = std::next(plain.begin(), random(static_cast<int>(plain.size())))->second;
                tokens.resize(random(static_cast<int>(tokens.size()) + 1));
            }
            for (int i = random(6); i > 0; --i) {
                tokens.push_back(random(3));
            }
        } else if (what < 4) {
            tokens.push_back(random(3));
        } else if (what == 4) {
            tokens.resize(random(static_cast<int>(tokens.size()) + 1));
        }
        const std::string in       = seq % 3 ? "" : "a namespace with a name that is long enough to be allocated";
        const bool        has_done = [&] {
            const Fault fault(random(8), 1 + random(3));
            return exposed([&] {
                try {
                    if (what == 0) {
                        tree.insert(seq, tokens, in);
                    } else if (what < 4) {
                        tree.append(seq, tokens.back());
                    } else if (what == 4) {
                        tree.truncate(seq, tokens.size());
                    } else {
                        tree.erase(seq);
                    }
                    return true;
                } catch (const std::bad_alloc &) {
                    return false;
                }
            });
        }();
        n_failed += !has_done;
        if (has_done && what == 5) {
            plain.erase(seq);
        } else if (has_done) {
            plain[seq] = tokens;
        }
        for (const auto & [seq, expected] : plain) {
            CHECK(tree.tokens(seq) == expected);
            CHECK(tree.name_space(seq) == (seq % 3 ? "" : in) || seq % 3 == 0);
            size_t n_longest = 0;
            tree.match(
                expected, expected.size(), [&](llama_seq_id, size_t n) { return n_longest = n, false; },
                tree.name_space(seq));
            CHECK(n_longest == expected.size());
        }
    }
    for (const auto & [seq, tokens] : plain) {
        tree.erase(seq);
    }
    CHECK(tree.n_tokens() == 0 && tree.fault().empty());
    std::printf("%zu changes of the tree failed\n", n_failed);
    CHECK(n_failed > 1000);
}

static void test_a_prompt(const Model & model, int64_t n_each) {
    const char * const request = R"({"messages": [{"role": "user", "content": "What is 1 + 1?"}], "tools": [{"type": )"
                                 R"("function", "function": {"name": "add", "description": "", "parameters": {"type": )"
                                 R"("object", "properties": {"a": {"type": "number"}}}}}]})";
    kvf_chat *         chat    = kvf_chat_create(model.model.get(), "chatml");
    CHECK(chat);
    const auto render = [&]() -> std::string {
        char * text = exposed([&] { return kvf_chat_render(chat, request); });
        if (!text) {
            CHECK(kvf_last_error_kind() != KVF_ERROR_NONE);
            return "";
        }
        const std::string out = text;
        kvf_string_free(text);
        return out;
    };
    const std::string expected = render();
    const int64_t     n_all    = count([&] { render(); });
    size_t            n_hurt   = 0;
    for (const int64_t n : which(n_all, n_each)) {
        const Fault       fault(n, 1 + n % 3);
        const std::string text = render();
        CHECK(text.empty() || text == expected);
        n_hurt += text.empty();
    }
    CHECK(render() == expected);
    CHECK(n_hurt > 0);
    kvf_chat_free(chat);
}

#ifdef KVFORK_WRAPS_DECODE

// ---------------------------------------------------------------------------------------------------------------------
// llama_decode, in place of the library's

extern "C" int32_t __real_llama_decode(llama_context * ctx, llama_batch batch);

static constexpr int32_t    THROWS = 1000;    // instead of returning
static std::atomic<int64_t> n_steps{ 0 };     // that have been computed
static std::atomic<int64_t> n_bad_step{ -1 }; // the one that fails,
static std::atomic<int32_t> bad_status{ 0 };  // how,
static std::atomic<bool>    is_late{ false }; // and whether it does so before or after it has computed

extern "C" int32_t __wrap_llama_decode(llama_context * ctx, llama_batch batch) {
    const bool is_bad = n_steps++ == n_bad_step;
    if (!is_bad || is_late) {
        const int32_t status = __real_llama_decode(ctx, batch);
        if (!is_bad || status != 0) {
            return status;
        }
    }
    if (bad_status == THROWS) {
        throw std::runtime_error("no reason");
    }
    return bad_status;
}

static void test_steps_that_fail(const Model & model) {
    const FanOut fan_out(model);
    kvf_engine * engine = make_engine(model);
    CHECK(engine);
    n_steps                            = 0;
    const std::vector<Tokens> expected = fan_out.run(engine);
    const int64_t             n_all    = n_steps;
    clear(engine);

    struct Way {
        int32_t status;
        bool    is_late;
    };
    for (const Way & way : std::initializer_list<Way>{ { -1, false },
                                                       { -2, false },
                                                       { -3, false },
                                                       { -3, true },
                                                       { 1, false },
                                                       { 2, false },
                                                       { THROWS, false },
                                                       { THROWS, true } }) {
        size_t n_hurt = 0;
        bad_status    = way.status;
        is_late       = way.is_late;
        for (int64_t n = 0; n < n_all; ++n) {
            n_steps                          = 0;
            n_bad_step                       = n;
            const std::vector<Tokens> tokens = fan_out.run(engine);
            n_bad_step                       = -1;
            for (size_t i = 0; i < expected.size(); ++i) {
                CHECK(tokens[i].empty() || tokens[i] == expected[i]);
                n_hurt += tokens[i].empty();
            }
            CHECK(fan_out.run(engine) == expected);
            clear(engine);
        }
        std::printf("status %d: %zu branches failed in %lld runs\n", way.status, n_hurt, (long long)n_all);
        // no room, and an end: it is tried again, but who is alone when there is no room hears so
        CHECK(way.status == 1 || (n_hurt > 0) == (way.status != 2));
    }
    kvf_engine_free(engine);
}

#endif

int main(int argc, char ** argv) {
    CHECK(argc == 3 || argc == 4);
    is_spared = true;
    const Model model(argv[1]);
    const int   n_each = argc == 4 ? std::atoi(argv[3]) : 25;
    std::filesystem::remove_all(argv[2]);
    kvf_set_log_level(GGML_LOG_LEVEL_NONE);
    test_the_tree();
    test_a_prompt(model, n_each);
    test_the_making_of_an_engine(model, n_each);
    test_a_fan_out(model, /* batch_invariant = */ false, /* store = */ nullptr, n_each);
    test_a_fan_out(model, /* batch_invariant = */ true, /* store = */ nullptr, n_each);
    test_a_fan_out(model, /* batch_invariant = */ false, argv[2], n_each);
#ifdef KVFORK_WRAPS_DECODE
    test_steps_that_fail(model);
#endif
    return 0;
}
