// Sequences placed by pages: forks that own their page, pages that run out, pages that move; and none of it shows.
//
// usage: test_pages MODEL.gguf [...]

#include "cache/cache.h"

// Three branches of one prompt, decoded in turns, one row at a time: each is what it is alone, bit for bit.
static bool test_branches_in_turns(const Model & model, llama_paged paged) {
    const Tokens prompt = tokens_of(model, 1, 70);
    Cache        cache(model, paged);
    if (!cache.is_paged()) {
        return false;
    }
    cache.run(0, prompt, 0, prompt.size());
    for (const llama_seq_id seq : { 1, 2 }) {
        CHECK(cache.fork(0, seq));
        CHECK(cache.own_page(seq));
    }
    std::vector<Tokens> branches;
    for (uint32_t seq = 0; seq < 3; ++seq) {
        branches.push_back(joined(prompt, tokens_of(model, 10 + seq, 70)));
    }
    std::vector<std::vector<float>> logits(3);
    for (size_t i = prompt.size(); i < branches[0].size(); ++i) {
        for (llama_seq_id seq = 0; seq < 3; ++seq) {
            CHECK(cache.decode(seq, { branches[seq][i] }, static_cast<llama_pos>(i)) == 0);
            logits[seq] = cache.logits();
        }
    }
    for (llama_seq_id seq = 0; seq < 3; ++seq) {
        Cache      alone(model, paged);
        const auto expected = alone.run(0, branches[seq], 0, prompt.size());
        CHECK(logits[seq] == expected);
    }
    return true;
}

static void test_pages_are_counted(const Model & model) {
    const Tokens prompt = tokens_of(model, 1, 70);
    Cache        cache(model, LLAMA_PAGED_STRICT);
    CHECK(cache.n_pages_free() == 8);
    cache.run(0, prompt, 0, 64);
    CHECK(cache.n_pages_free() == 6 && cache.n_cells_used() == 70);

    CHECK(cache.fork(0, 1));
    CHECK(cache.n_pages_free() == 6 && cache.n_cells_used() == 70); // a fork moves nothing
    CHECK(cache.own_page(1));
    CHECK(cache.n_pages_free() == 5 && cache.n_cells_used() == 76); // but for what its last page holds
    CHECK(cache.own_page(1));
    CHECK(cache.n_pages_free() == 5); // it is its own now

    cache.drop(0);
    CHECK(cache.n_pages_free() == 6 && cache.n_cells_used() == 70);
    cache.drop(1);
    CHECK(cache.n_pages_free() == 8 && cache.n_cells_used() == 0);

    cache.run(0, prompt, 0, 64);
    CHECK(cache.fork(0, 1));
    CHECK(!cache.own_page(-1) && !cache.own_page(8));
    cache.drop(0);
    CHECK(cache.own_page(1) && cache.n_pages_free() == 6); // nobody shares it any more
}

// a full page, or the end of one, is nobody's to add to: there is nothing to copy
static void test_a_fork_at_the_end_of_a_page(const Model & model) {
    Cache cache(model, LLAMA_PAGED_STRICT);
    cache.run(0, tokens_of(model, 1, 64), 0, 64);
    CHECK(cache.fork(0, 1) && cache.own_page(1));
    CHECK(cache.n_cells_used() == 64 && cache.n_pages_free() == 7);
}

// Strict pages go upwards: when the last one is in use, those behind it must move.
static void test_pages_move_when_they_have_run_out(const Model & model) {
    Cache        cache(model, LLAMA_PAGED_STRICT);
    const Tokens page  = tokens_of(model, 2, 64);
    const Tokens grows = tokens_of(model, 3, 200);
    for (const llama_seq_id seq : { 0, 1, 2, 3, 4, 5 }) {
        cache.run(seq, page, 0, 64);
    }
    CHECK(cache.decode(6, { grows.begin(), grows.begin() + 32 }, 0) == 0);
    CHECK(cache.fork(6, 7)); // moves with it
    for (size_t i = 32; i < 128; ++i) {
        CHECK(cache.decode(6, { grows[i] }, static_cast<llama_pos>(i)) == 0);
    }
    CHECK(cache.n_pages_free() == 0 && !cache.compact());
    CHECK(cache.decode(6, { grows[128] }, 128) == 1);
    for (const llama_seq_id seq : { 1, 3 }) {
        cache.drop(seq);
    }
    CHECK(cache.n_pages_free() == 2);
    CHECK(cache.decode(6, { grows[128] }, 128) == 1); // they are below
    CHECK(cache.compact() && !cache.compact());
    for (size_t i = 128; i < grows.size(); ++i) {
        CHECK(cache.decode(6, { grows[i] }, static_cast<llama_pos>(i)) == 0);
    }
    Cache alone(model, LLAMA_PAGED_STRICT);
    CHECK(alone.run(0, grows, 0, 32) == cache.logits());

    // a sequence that did not grow is where it was, too
    cache.drop(6);
    CHECK(cache.decode(5, { grows[0] }, 64) == 0);
    Cache other(model, LLAMA_PAGED_STRICT);
    CHECK(other.run(0, joined(page, { grows[0] }), 0, 64) == cache.logits());
    CHECK(cache.own_page(7) && cache.decode(7, { grows[32] }, 32) == 0);
    Cache third(model, LLAMA_PAGED_STRICT);
    CHECK(third.run(0, Tokens(grows.begin(), grows.begin() + 33), 0, 32) == cache.logits());
}

// If pages are only preferred, every cell is used before anything is refused.
static void test_any_cell_is_used_when_no_page_is_free(const Model & model) {
    Cache cache(model, LLAMA_PAGED_PREFER);
    for (const llama_seq_id seq : { 0, 1, 2, 3, 4, 5, 6, 7 }) { // half of each page
        cache.run(seq, tokens_of(model, 1, 32), 0, 32);
    }
    CHECK(cache.n_pages_free() == 0 && cache.n_cells_used() == 256);
    const Tokens grows = joined(tokens_of(model, 1, 32), tokens_of(model, 4, 256));
    const auto   got   = cache.run(0, grows, 32, 32);
    CHECK(cache.n_cells_used() == 512);
    CHECK(cache.decode(0, { grows[0] }, 288) == 1);
    Cache alone(model, LLAMA_PAGED_PREFER);
    CHECK(nmse(got, alone.run(0, grows, 0, 32)) < 1e-10); // its cells lie in another order: F32 rounds differently
}

static void test_what_cannot_have_pages(const Model & model) {
    CHECK(!llama_memory_set_paged(nullptr, LLAMA_PAGED_STRICT));
    llama_context_params params = model.params(N_CTX, N_CHUNK, 8);
    params.kv_unified           = false;
    CHECK(!llama_memory_set_paged(llama_get_memory(Context(model, params).ctx.get()), LLAMA_PAGED_PREFER));
    params                 = model.params(N_CTX, N_CHUNK, 8);
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    CHECK(!llama_memory_set_paged(llama_get_memory(Context(model, params).ctx.get()), LLAMA_PAGED_PREFER));
}

int main(int argc, char ** argv) {
    CHECK(argc >= 2);
    int n_without_pages = 0;
    for (int i = 1; i < argc; ++i) {
        const Model model(argv[i]);
        if (!llama_get_memory(Context(model, model.params(64, 8, 1)).ctx.get()) ||
            !test_branches_in_turns(model, LLAMA_PAGED_PREFER)) {
            std::printf("%s: no pages\n", argv[i]);
            ++n_without_pages;
            continue;
        }
        CHECK(test_branches_in_turns(model, LLAMA_PAGED_STRICT));
        if (std::string(argv[i]).find("llama-dense") != std::string::npos) {
            test_pages_are_counted(model);
            test_a_fork_at_the_end_of_a_page(model);
            test_pages_move_when_they_have_run_out(model);
            test_any_cell_is_used_when_no_page_is_free(model);
            test_what_cannot_have_pages(model);
        }
    }
    // of the 128 that test-llama-archs writes for llama.cpp 0c1e57098: four without memory, two with nothing but
    // recurrent states, grok without flash attention, and three that keep more than cells
    CHECK(n_without_pages <= 10);
    return 0;
}
