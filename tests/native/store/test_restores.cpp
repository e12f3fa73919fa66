// What one context computed, in another one by way of a store: for every architecture that can be stored, the same bits, and
// nothing computed again. Those that cannot be are counted, and say why.
//
// usage: test_restores FOLDER N_NOT_STORED MODEL.gguf...

#include "context/fingerprint.h"
#include "harness.h"
#include "kvf_error.h"
#include "llama-rows.h"

#include <cstring>
#include <filesystem>
#include <functional>

using kvf::Scheduler;
using kvf::Store;

namespace fs = std::filesystem;

constexpr size_t N_PROMPT = 330; // a segment, and the beginning of another
constexpr size_t N_TEXT   = 5;

// a context with a store, as an engine has them
struct Process {
    Context                         context;
    Scheduler                       scheduler;
    std::shared_ptr<Store>          store;
    std::map<kvf_branch_id, Record> records;
    kvf_branch_id                   n_branches = 0;

    Process(const Model &                                       model,
            const std::string &                                 path,
            const std::function<void(llama_context_params &)> & change  = {},
            const std::string &                                 weights = "w")
        : context(model, params(model, change)),
          scheduler(context.ctx.get(), slices()),
          store(open(model, path, change, weights)) {
        scheduler.open_store(store);
    }

    // whole states are copied in many slices, as large ones are
    static kvf::Scheduler::Params slices() {
        kvf::Scheduler::Params params;
        params.n_save_bytes = 1000;
        return params;
    }

    static llama_context_params params(const Model &                                       model,
                                       const std::function<void(llama_context_params &)> & change) {
        llama_context_params params = model.params(1024, 32, 16);
        if (change) {
            change(params);
        }
        return params;
    }

    std::shared_ptr<Store> open(const Model &                                       model,
                                const std::string &                                 path,
                                const std::function<void(llama_context_params &)> & change,
                                const std::string &                                 weights) {
        Store::Params out;
        out.path        = path;
        out.max_bytes   = 1u << 30;
        out.description = kvf::fingerprint(context.ctx.get(), params(model, change), false, weights);
        return std::make_shared<Store>(std::move(out));
    }

    Record run(const Model & model, const kvf_request & request) {
        scheduler.submit(make_branch(model, ++n_branches, request));
        run_to_end(scheduler, records);
        return records.at(n_branches);
    }

    void save() {
        std::vector<kvf::Event> events;
        while (scheduler.is_saving()) {
            scheduler.step(events);
        }
        CHECK(store->finish());
        CHECK(store->take_fault().empty());
    }
};

static Tokens prompt_of(const Model & model, uint32_t seed = 1) {
    // where positions are not turned but looked up, there are only so many
    char arch[64] = {};
    llama_model_meta_val_str(model.model.get(), "general.architecture", arch, sizeof(arch));
    const bool is_short =
        llama_model_rope_type(model.model.get()) == LLAMA_ROPE_TYPE_NONE || std::string(arch) == "starcoder";
    std::mt19937 rng(seed);
    return random_tokens(rng, is_short ? 200 : N_PROMPT, std::min(model.n_vocab(), 120));
}

// the prompt and one more token, and all logits of what follows
static Record go_on(Process & process, const Model & model, const Tokens & prompt, llama_token next) {
    Tokens tokens = prompt;
    tokens.push_back(next);
    kvf_request request = make_request(tokens, N_TEXT);
    request.n_logprobs  = model.n_vocab();
    request.keep        = KVF_KEEP_NONE;
    Record record       = process.run(model, request);
    CHECK(record.finish == KVF_FINISH_LENGTH);
    return record;
}

static bool same_bits(const Record & a, const Record & b) {
    for (size_t i = 0; i < N_TEXT; ++i) {
        const auto x = logits_of(a.logprobs.at(i));
        const auto y = logits_of(b.logprobs.at(i));
        if (std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) != 0) {
            return false;
        }
    }
    return a.tokens == b.tokens;
}

static void test_restored_is_computed(const Model & model, const std::string & path) {
    const Tokens prompt = prompt_of(model);

    std::vector<Record> before;
    {
        Process first(model, path);
        CHECK(first.run(model, make_request(prompt, 0)).finish == KVF_FINISH_PREFILLED);
        // others are computed meanwhile
        Tokens others = prompt_of(model, 2);
        others.resize(100);
        kvf_request request = make_request(others, 30);
        request.keep        = KVF_KEEP_NONE; // its cells would change the order in which others add up
        first.scheduler.submit(make_branch(model, ++first.n_branches, request));
        first.save();
        run_to_end(first.scheduler, first.records);
        CHECK(first.store->n_bytes_written() > 0);
        for (llama_token i = 0; i < 8; ++i) {
            before.push_back(go_on(first, model, prompt, i));
        }
    }
    Process second(model, path);
    for (llama_token i = 0; i < 8; ++i) {
        const Record after = go_on(second, model, prompt, i);
        CHECK(after.usage.n_prefilled == 1);
        CHECK(after.usage.n_forked + after.usage.n_restored == prompt.size());
        CHECK(same_bits(before[i], after));
    }
    // the first one left nothing behind, so each is read; a prefill is kept, and the rest forks it
    CHECK(second.scheduler.stats().restored_tokens == 8 * prompt.size());
    CHECK(second.run(model, make_request(prompt, 0)).usage.n_restored == prompt.size());
    for (llama_token i = 0; i < 8; ++i) {
        const Record after = go_on(second, model, prompt, i);
        CHECK(after.usage.n_prefilled == 1 && after.usage.n_forked == prompt.size() && after.usage.n_restored == 0);
        CHECK(same_bits(before[i], after));
    }
    CHECK(second.store->take_fault().empty());
}

// ---------------------------------------------------------------------------------------------------------------------
// on one model whose tokens have rows

// eight at once: one read, as there is one prefill
static void test_all_wait_for_one_read(const Model & model, const std::string & path) {
    const Tokens prompt = prompt_of(model);
    {
        Process first(model, path);
        first.run(model, make_request(prompt, 0));
        first.save();
    }
    Process             second(model, path);
    std::vector<Tokens> prompts;
    for (llama_token i = 0; i < 8; ++i) {
        prompts.push_back(prompt);
        prompts.back().push_back(i);
        second.scheduler.submit(make_branch(model, i + 1, make_request(prompts.back(), 3)));
    }
    run_to_end(second.scheduler, second.records);
    CHECK(second.scheduler.stats().restored_tokens == N_PROMPT);
    CHECK(second.scheduler.stats().prefilled_tokens == 8);
    CHECK(second.scheduler.stats().forked_tokens == 7 * N_PROMPT);
}

// a prompt with another end takes what it has in common, in the middle of a segment; one with a longer end adds only that
static void test_only_tails_are_added(const Model & model, const std::string & path) {
    const Tokens prompt = prompt_of(model);
    Tokens       other  = prompt;
    other[280]          = (other[280] + 1) % 100;
    Tokens longer       = prompt;
    longer.insert(longer.end(), prompt.begin(), prompt.begin() + 100);
    {
        Process first(model, path);
        first.run(model, make_request(prompt, 0));
        first.save();
    }
    {
        Process second(model, path);
        CHECK(second.run(model, make_request(other, 0)).usage.n_restored == 280);
        second.save();
        const uint64_t n_bytes = second.store->n_bytes_written();
        const Record   record  = second.run(model, make_request(longer, 0)); // the longer of both: cells and store
        CHECK(record.usage.n_forked == 280 && record.usage.n_restored == N_PROMPT - 280);
        second.save();
        const size_t row = llama_memory_rows_size(llama_get_memory(second.context.ctx.get()), 1);
        CHECK(n_bytes < (N_PROMPT - 256) * row + 4096);
        CHECK(second.store->n_bytes_written() - n_bytes < (longer.size() - 256) * row + 4096);
    }
    Process third(model, path);
    for (const Tokens & tokens : { prompt, other, longer }) {
        CHECK(third.run(model, make_request(tokens, 0)).usage.n_prefilled == 0);
    }
}

// what is evicted is written first, and is there again
static void test_what_is_dropped_comes_back(const Model & model, const std::string & path) {
    Process process(model, path); // 1,024 cells
    for (int round = 0; round < 3; ++round) {
        for (uint32_t seed = 1; seed <= 8; ++seed) {
            const Record record = process.run(model, make_request(prompt_of(model, seed), 0));
            CHECK((record.usage.n_prefilled == 0) == (round > 0));
            CHECK(process.store->finish());
        }
    }
    CHECK(process.scheduler.stats().evictions > 0);
    CHECK(process.scheduler.stats().prefilled_tokens == 8 * N_PROMPT);
}

// A branch that gives way and reads its prompt once more has it from the store once, as its own numbers say.
static void test_what_is_read_again_is_counted_once(const Model & model, const std::string & path) {
    const Tokens prompt = prompt_of(model);
    {
        Process first(model, path);
        first.run(model, make_request(prompt, 0));
        first.save();
    }
    Process      second(model, path, [](llama_context_params & params) { params.n_ctx = 512; }); // 8 pages
    const Tokens other(100, 7);
    second.scheduler.submit(make_branch(model, 1, make_request(other, 200)));
    second.scheduler.submit(make_branch(model, 2, make_request(prompt, 60)));
    run_to_end(second.scheduler, second.records);
    const kvf_usage & usage = second.records.at(2).usage;
    CHECK(usage.n_preempted > 0);
    CHECK(usage.n_restored == N_PROMPT - 1);                                 // the last one's logits are needed
    CHECK(second.scheduler.stats().restored_tokens >= 2 * usage.n_restored); // both times
}

// Namespaces share nothing, in the cells nor in the store; and whoever computes other numbers, or says so, finds nothing.
static void test_nobody_else_finds_it(const Model & model, const std::string & path) {
    const Tokens prompt    = prompt_of(model);
    kvf_request  request   = make_request(prompt, 0);
    kvf_request  of_tenant = request;
    of_tenant.name_space   = "tenant";
    kvf_request of_other   = request;
    of_other.name_space    = "other";
    {
        Process first(model, path);
        CHECK(first.run(model, request).usage.n_prefilled == N_PROMPT);
        CHECK(first.run(model, of_tenant).usage.n_prefilled == N_PROMPT);
        CHECK(first.run(model, of_tenant).usage.n_forked == N_PROMPT);
        CHECK(first.run(model, request).usage.n_forked == N_PROMPT);
        first.save();
    }
    {
        Process second(model, path);
        CHECK(second.run(model, of_other).usage.n_prefilled == N_PROMPT);
        CHECK(second.run(model, of_tenant).usage.n_restored == N_PROMPT);
        CHECK(second.run(model, request).usage.n_restored == N_PROMPT);
    }
    const std::vector<std::function<void(llama_context_params &)>> changes = {
        [](llama_context_params & p) { p.type_k = GGML_TYPE_Q8_0; },
        [](llama_context_params & p) { p.type_v                            = GGML_TYPE_Q8_0; },
        [](llama_context_params & p) { p.type_k                            = GGML_TYPE_BF16; }, // as large as the default
        [](llama_context_params & p) { p.type_v                            = GGML_TYPE_BF16; },
        [](llama_context_params & p) { p.rope_freq_base                    = 20000.0f; },
        [](llama_context_params & p) { p.rope_freq_scale                   = 0.5f; },
        [](llama_context_params & p) { p.flash_attn_type                   = LLAMA_FLASH_ATTN_TYPE_DISABLED; },
    };
    for (const auto & change : changes) {
        Process process(model, path, change);
        CHECK(process.run(model, request).usage.n_prefilled == N_PROMPT);
    }
    Process process(model, path, {}, "other weights");
    CHECK(process.run(model, request).usage.n_prefilled == N_PROMPT);
}

// branches that say so leave nothing, or only what others shared
static void test_branches_that_leave_nothing(const Model & model, const std::string & path) {
    const Tokens prompt = prompt_of(model);
    Process      process(model, path);

    kvf_request request = make_request(prompt, 3);
    request.keep        = KVF_KEEP_NONE;
    process.run(model, request);
    CHECK(process.scheduler.stats().snapshots == 0 && process.scheduler.stats().cells_used == 0);

    // a fan-out without a trunk of its own: what two or more have in common stays, once
    std::vector<Tokens> prompts;
    for (llama_token i = 0; i < 4; ++i) {
        prompts.push_back(prompt);
        prompts.back().push_back(i);
        kvf_request one = make_request(prompts.back(), 3);
        one.keep        = KVF_KEEP_PREFIX;
        process.scheduler.submit(make_branch(model, 100 + i, one));
    }
    run_to_end(process.scheduler, process.records);
    CHECK(process.scheduler.stats().snapshots == 1);
    CHECK(process.scheduler.stats().cells_used == N_PROMPT);
    CHECK(process.run(model, make_request(prompt, 0)).usage.n_forked == N_PROMPT);
    process.save();

    Process second(model, path);
    CHECK(second.run(model, make_request(prompts[0], 0)).usage.n_restored == N_PROMPT);
}

// a damaged file costs its tokens and those behind it, never the answer
static void test_damage_is_computed(const Model & model, const std::string & path) {
    const Tokens prompt = prompt_of(model);
    Record       before;
    {
        Process first(model, path);
        first.run(model, make_request(prompt, 0));
        first.save();
        before = go_on(first, model, prompt, 1);
    }
    for (const bool tail : { true, false }) {
        for (const auto & entry : fs::recursive_directory_iterator(path)) {
            const std::string name = entry.path().filename();
            if (kvf::end_of_file_name(name) == (tail ? N_PROMPT : 256)) {
                std::FILE * file = std::fopen(entry.path().c_str(), "r+");
                std::fseek(file, -100, SEEK_END);
                std::fputc('x', file);
                std::fputc('y', file);
                std::fclose(file);
            }
        }
        Process      second(model, path);
        const Record after = go_on(second, model, prompt, 1);
        CHECK(after.usage.n_restored == (tail ? 256 : 0));
        CHECK(after.tokens == before.tokens);
        CHECK(!second.store->take_fault().empty());
    }
}

int main(int argc, char ** argv) {
    CHECK(argc > 3);
    const std::string path = argv[1];
    const auto        anew = [&] {
        fs::remove_all(path);
        return path;
    };
    int n_not_stored = 0;
    for (int i = 3; i < argc; ++i) {
        const Model model(argv[i]);
        if (!llama_model_has_decoder(model.model.get()) || llama_model_has_encoder(model.model.get())) {
            continue;
        }
        Context      context(model, model.params(512, 32, 4));
        const char * why = nullptr;
        if (!llama_get_memory(context.ctx.get())) {
            continue;
        }
        if (llama_memory_rows_kind(llama_get_memory(context.ctx.get()), &why) == LLAMA_ROWS_NONE) {
            CHECK(why);
            std::printf("%s: not stored: %s\n", argv[i], why);
            ++n_not_stored;
            continue;
        }
        std::printf("%s\n", argv[i]);
        std::fflush(stdout);
        test_restored_is_computed(model, anew());
        if (std::string(argv[i]).find("llama-dense.gguf") != std::string::npos) {
            test_all_wait_for_one_read(model, anew());
            test_only_tails_are_added(model, anew());
            test_what_is_dropped_comes_back(model, anew());
            test_what_is_read_again_is_counted_once(model, anew());
            test_nobody_else_finds_it(model, anew());
            test_branches_that_leave_nothing(model, anew());
            test_damage_is_computed(model, anew());
        }
    }
    fs::remove_all(path);
    CHECK(n_not_stored == std::atoi(argv[2]));
    return 0;
}
