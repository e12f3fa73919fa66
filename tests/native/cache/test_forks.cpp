// What a fork decodes is bit for bit what a context of its own decodes, on whatever device the cache lies: a fork of a
// whole sequence and of its first tokens, with pages and without. Or it is refused.
//
// usage: test_forks N MODEL.gguf [...], where N is how many of them can have pages

#include "cache/cache.h"

#include <array>

// Attention on a device adds up what it reads in parts, which are stretches of the cache, so the last bits depend on
// where a sequence's cells are. Therefore a context of its own has them in the same places: where the branches' other
// cells are, it has some of a filler's.

static const llama_seq_id SOURCE = 0;
static const llama_seq_id FORK   = 1;
static const llama_seq_id FILLER = 2;

static const llama_pos N_PAGE   = LLAMA_PAGE_SIZE;
static const llama_pos N_PROMPT = N_PAGE + 6; // a page, and a part of one that a fork copies
static const llama_pos N_STEPS  = 3;

using Rows = std::vector<std::vector<float>>;

struct Case {
    const Model & model;
    llama_paged   paged;
    llama_pos     n_past; // where the fork begins

    Tokens prompt() const { return tokens_of(model, 1, N_PROMPT); }
};

static void decode(Cache & cache, llama_seq_id seq, const Tokens & tokens, llama_pos pos) {
    CHECK(cache.decode(seq, tokens, pos) == 0);
}

static Rows steps(const Case & c, Cache & cache, llama_seq_id seq, llama_pos pos, uint32_t seed) {
    Rows rows;
    for (const llama_token token : tokens_of(c.model, seed, N_STEPS)) {
        decode(cache, seq, { token }, pos++);
        rows.push_back(cache.logits());
    }
    return rows;
}

// when its other cells are free, the fork's second page moves to the front
static Rows steps_moved(const Case & c, Cache & cache, llama_seq_id other) {
    cache.drop(other);
    CHECK(cache.compact());
    return steps(c, cache, FORK, c.n_past + N_STEPS, 4);
}

// only what is the fork's, in the cells that it has beside its source
static std::array<Rows, 2> fork_alone(const Case & c) {
    Cache        cache(c.model, c.paged);
    const Tokens prompt = c.prompt();
    cache.run(FORK, { prompt.begin(), prompt.begin() + N_PAGE }, 0, N_PAGE);
    if (c.paged) {
        decode(cache, FILLER, { 1 }, 0); // the source's second page
    }
    decode(cache, FORK, { prompt.begin() + N_PAGE, prompt.end() }, N_PAGE);
    if (c.n_past < N_PROMPT) {
        CHECK(cache.cut(FORK, c.n_past));
        if (!c.paged) {
            decode(cache, FILLER, Tokens(N_PROMPT - c.n_past, 1), 0); // what the source goes on with
        }
    }
    const Rows rows = steps(c, cache, FORK, c.n_past, 2);
    return { rows, c.paged ? steps_moved(c, cache, FILLER) : Rows() };
}

static Rows source_alone(const Case & c, llama_pos n_filler) {
    Cache cache(c.model, c.paged);
    cache.run(SOURCE, c.prompt(), 0, N_PROMPT);
    if (n_filler > 0) {
        decode(cache, FILLER, Tokens(n_filler, 1), 0);
    }
    return steps(c, cache, SOURCE, N_PROMPT, 3);
}

// false: refused
static bool test_fork(const Case & c) {
    Cache cache(c.model, c.paged);
    cache.run(SOURCE, c.prompt(), 0, N_PROMPT);
    const uint32_t n_cells = cache.n_cells_used();
    if (!cache.fork(SOURCE, FORK, c.n_past)) {
        CHECK(cache.n_cells_used() == n_cells);
        CHECK(steps(c, cache, SOURCE, N_PROMPT, 3) == source_alone(c, 0));
        return false;
    }
    if (c.paged) {
        CHECK(cache.own_page(FORK));
        CHECK(cache.n_cells_used() == n_cells + static_cast<uint32_t>(c.n_past % N_PAGE));
    }
    const Rows forked   = steps(c, cache, FORK, c.n_past, 2);
    const Rows source   = steps(c, cache, SOURCE, N_PROMPT, 3);
    const Rows moved    = c.paged ? steps_moved(c, cache, SOURCE) : Rows();
    const auto expected = fork_alone(c);
    CHECK(forked == expected[0] && moved == expected[1]);
    CHECK(source == source_alone(c, c.paged ? 0 : N_STEPS));
    return true;
}

int main(int argc, char ** argv) {
    CHECK(argc >= 3);
    int n_no_memory = 0, n_paged = 0, n_cut = 0;
    for (int i = 2; i < argc; ++i) {
        const Model model(argv[i]);
        if (!llama_get_memory(Context(model, model.params(64, 8, 1)).ctx.get())) {
            ++n_no_memory;
            continue;
        }
        // a state is that of the last token
        const bool has_state = llama_model_is_recurrent(model.model.get()) || llama_model_is_hybrid(model.model.get());
        const bool is_paged  = Cache(model, LLAMA_PAGED_PREFER).is_paged();
        for (const llama_paged paged : { LLAMA_PAGED_NO, LLAMA_PAGED_PREFER, LLAMA_PAGED_STRICT }) {
            if (paged == LLAMA_PAGED_NO || is_paged) {
                CHECK(test_fork({ model, paged, N_PROMPT }));
                CHECK(test_fork({ model, paged, N_PROMPT - 3 }) == !has_state);
            }
        }
        std::printf("%s: %s pages, first tokens %s\n", argv[i], is_paged ? "with" : "no",
                    has_state ? "refused" : "too");
        std::fflush(stdout);
        n_paged += is_paged;
        n_cut += !has_state;
    }
    std::printf("of %d models %d have no memory, %d can have pages, %d can be forked at any token\n", argc - 2,
                n_no_memory, n_paged, n_cut);
    CHECK(n_paged == std::atoi(argv[1]));
    return 0;
}
