// The check that the engine makes of itself finds what is broken: each invariant is broken on purpose, and reported.
//
// usage: test_integrity MODEL.gguf FOLDER

#include "harness.h"
#include "llama-fork.h"
#include "store/folder.h"
#include "store/shelf.h"
#include "store/store.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>

using kvf::Branch;
using kvf::Scheduler;

namespace kvf {

// reaches what the classes keep for themselves
struct Tampering {
    Scheduler & s;

    static void forget_a_file(Shelf & shelf) { shelf.children_.erase(shelf.children_.begin()); }

    static void another_parent(Shelf & shelf) { shelf.files_.begin()->second.segment.parent[0] ^= 1; }

    static void another_name(Shelf & shelf) { shelf.files_.begin()->second.segment.tokens[0] ^= 1; }

    Branch & running(size_t i = 0) { return *std::next(s.started_.begin(), i)->second; }

    Branch & waiting() { return *s.waiting_.all_.begin()->second; }

    llama_seq_id snapshot() { return s.snapshots_.any(); }

    llama_memory_t memory() { return llama_get_memory(s.ctx_); }

    void free_twice() { s.sequences_.free_.push_back(s.sequences_.free_.back()); }

    void free_what_runs() { s.sequences_.free_.push_back(running().seq); }

    void free_what_is_kept() { s.sequences_.free_.push_back(snapshot()); }

    void lose_an_id() { s.sequences_.free_.pop_back(); }

    void forget_in_a_list() { s.started_.erase(running().id); }

    void forget_a_waiting_one() { s.waiting_.all_.erase(waiting().id); }

    void wait_for_nobody() { waiting().owner = nullptr; }

    void do_not_wake() { waiting().owner->waiters.clear(); }

    void wake_a_stranger() { running(1).waiters.insert({ 3, running().id }); }

    void run_and_give_way() { s.gave_way_[running().id] = &running(); }

    void lose_a_sampler() { running().sampler.reset(); }

    void count_too_much() { running().n_shared = running().tokens.size() + 1; }

    void leave_the_tree() { s.tree_.erase(running().seq); }

    void drop_from_the_tree() { s.tree_.erase(snapshot()); }

    void other_tokens() { s.tree_.append(running().seq, 7); }

    void shorter_snapshot() { s.tree_.truncate(snapshot(), 3); }

    void stranger_in_the_tree() { s.tree_.insert(s.sequences_.free_.back(), { 1, 2, 3 }, ""); }

    void other_namespace() {
        const llama_seq_id seq = running().seq;
        s.tree_.erase(seq);
        s.tree_.insert(seq, running().tokens, "another");
    }

    void index_of_the_tree() { std::swap(s.tree_.node_of_.at(running(0).seq), s.tree_.node_of_.at(running(1).seq)); }

    void lose_cells() { llama_memory_seq_drop(memory(), snapshot()); }

    void one_cell_less() { llama_memory_seq_rm(memory(), running().seq, 5, 6); }

    void end_too_early() { llama_memory_seq_rm(memory(), snapshot(), 60, -1); }

    void leave_cells_behind() { llama_memory_seq_fork(memory(), running().seq, s.sequences_.free_.back(), -1); }

    // the second of two branches gets the cells of the first, as far as both are computed
    void share_too_much() {
        Branch &     a = running(0);
        Branch &     b = running(1);
        const size_t n = std::min(a.n_cached, b.n_cached);
        llama_memory_seq_fork(memory(), a.seq, b.seq, static_cast<llama_pos>(n));
        b.n_cached = n;
        a.n_cached = n;
        llama_memory_seq_rm(memory(), a.seq, static_cast<llama_pos>(n), -1);
    }

    void save_something_else() { s.saves_->saves_.front().tokens.pop_back(); }
};

} // namespace kvf

using kvf::Tampering;

// Snapshots, branches that run, and one that waits for the prefix of another.
struct Scene {
    Context                         context;
    Scheduler                       scheduler;
    std::map<kvf_branch_id, Record> records;
    std::vector<kvf::Event>         events;

    Scene(const Model & model, const std::string & store)
        : context(model, model.params(1024, 32, 8)), scheduler(context.ctx.get()) {
        if (!store.empty()) {
            kvf::Store::Params params;
            params.path        = store;
            params.max_bytes   = 1 << 20;
            params.description = "{}";
            scheduler.open_store(std::make_shared<kvf::Store>(params));
        }
        std::mt19937 rng(1);
        const Tokens shared = random_tokens(rng, 70, model.n_vocab());
        scheduler.submit(make_branch(model, 1, make_request(shared, 0)));
        CHECK(scheduler.fault().empty());
        while (scheduler.stats().snapshots == 0) {
            step();
        }
        Tokens a = shared;
        a.push_back(1);
        Tokens b = shared;
        b.push_back(2);
        Tokens long_one(200, 3);
        scheduler.submit(make_branch(model, 2, make_request(a, 50)));
        scheduler.submit(make_branch(model, 3, make_request(b, 50)));
        scheduler.submit(make_branch(model, 4, make_request(long_one, 2)));
        long_one.push_back(4);
        scheduler.submit(make_branch(model, 5, make_request(long_one, 2)));
        while (scheduler.stats().branches_running < 3) {
            step();
        }
        for (int i = 0; i < 2; ++i) {
            step();
        }
        CHECK(scheduler.stats().branches_waiting == 1);
    }

    void step() {
        scheduler.step(events);
        record(records, events);
        const std::string fault = scheduler.fault();
        if (!fault.empty()) {
            std::fprintf(stderr, "%s\n", fault.c_str());
            std::abort();
        }
    }
};

static void test_what_is_broken_is_reported(const Model & model) {
    const std::vector<std::pair<void (Tampering::*)(), const char *>> cases = {
        { &Tampering::free_twice, "was given back twice" },
        { &Tampering::free_what_runs, "of branch 2 is free" },
        { &Tampering::free_what_is_kept, "of a snapshot is free" },
        { &Tampering::lose_an_id, "is lost" },
        { &Tampering::forget_in_a_list, "is not in the lists that a running branch belongs to" },
        { &Tampering::forget_a_waiting_one, "is not in the lists that a waiting branch belongs to" },
        { &Tampering::wait_for_nobody, "waits for nobody and is never tried" },
        { &Tampering::do_not_wake, "waits for a branch that does not run, or does not know of it" },
        { &Tampering::wake_a_stranger, "which does not wait for it" },
        { &Tampering::run_and_give_way, "is listed among those that gave way" },
        { &Tampering::lose_a_sampler, "has no sampler" },
        { &Tampering::count_too_much, "counts more tokens than it has" },
        { &Tampering::leave_the_tree, "is not in the prefix tree" },
        { &Tampering::drop_from_the_tree, "is not in the prefix tree" },
        { &Tampering::other_tokens, "with other tokens" },
        { &Tampering::shorter_snapshot, "tokens in the prefix tree, not 70" },
        { &Tampering::stranger_in_the_tree, "the prefix tree has a sequence that nobody has" },
        { &Tampering::other_namespace, "in another namespace" },
        { &Tampering::index_of_the_tree, "the index knows it at another node" },
        { &Tampering::lose_cells, "and in the memory 0" },
        { &Tampering::one_cell_less, "computed tokens and holds" },
        { &Tampering::end_too_early, "and in the memory 60" },
        { &Tampering::leave_cells_behind, "is free, and not empty" },
        { &Tampering::share_too_much, "cells, and begin with the same 70 tokens" },
    };
    for (const auto & [breaks, words] : cases) {
        Scene     scene(model, "");
        Tampering tampering{ scene.scheduler };
        (tampering.*breaks)();
        const std::string fault = scene.scheduler.fault();
        if (fault.find(words) == std::string::npos) {
            std::fprintf(stderr, "expected \"%s\", found \"%s\"\n", words, fault.c_str());
            std::abort();
        }
    }
}

static void test_what_is_saved_is_a_snapshot(const Model & model, const std::string & folder) {
    std::filesystem::remove_all(folder);
    Scene        scene(model, folder);
    const Tokens prompt(300, 9); // copied in more than one slice
    scene.scheduler.submit(make_branch(model, 6, make_request(prompt, 0)));
    while (scene.records[6].finish == KVF_FINISH_NONE) {
        scene.step();
    }
    CHECK(scene.scheduler.is_saving());
    Tampering{ scene.scheduler }.save_something_else();
    CHECK(scene.scheduler.fault().find("is being saved as a prefix that it is not") != std::string::npos);
}

static void test_the_index_of_the_store(const std::string & path) {
    const kvf::Folder folder(path);
    const auto        expect = [&](void (*breaks)(kvf::Shelf &), const char * words) {
        kvf::Shelf   shelf(folder, kvf::shelf_id({}, ""));
        kvf::Segment first;
        first.shelf  = shelf.id();
        first.tokens = Tokens(256, 1);
        shelf.add(first);
        kvf::Segment second = first;
        second.parent       = first.name();
        second.begin        = 256;
        shelf.add(second);
        CHECK(shelf.fault().empty());
        breaks(shelf);
        CHECK(shelf.fault().find(words) != std::string::npos);
    };
    expect(Tampering::forget_a_file, "knows 2 files, 1 of them by their parents and 2 by their names");
    expect(Tampering::another_parent, "under a name that is not its content's");
    expect(Tampering::another_name, "under a name that is not its content's");
}

// with the variable set, a step says so itself, and an engine that is broken ends its branches with these words
static void test_steps_check_themselves(const Model & model) {
    CHECK(::setenv("KVFORK_CHECK_STEPS", "1", 1) == 0);
    Scene scene(model, "");
    CHECK(::unsetenv("KVFORK_CHECK_STEPS") == 0);
    Tampering{ scene.scheduler }.free_twice();
    std::string words;
    try {
        scene.scheduler.step(scene.events);
    } catch (const std::logic_error & e) {
        words = e.what();
    }
    CHECK(words.find("after a step, sequence") == 0);
}

// an engine that is held does what it is asked for, and nothing else
static void test_a_held_engine_steps_when_asked(const Model & model) {
    kvf_engine * engine = kvf_engine_create(model.model.get(), model.params(512, 32, 8), false, 0.0);
    CHECK(engine && kvf_engine_hold(engine, true));
    CHECK(kvf_engine_step(engine) == 0); // there is nothing to do
    const Tokens prompt(100, 5);
    kvf_request  request = make_request(prompt, 2);
    CHECK(kvf_submit(engine, &request) == 1);
    CHECK(kvf_engine_check_integrity(engine));
    CHECK(kvf_engine_stats(engine).steps == 0);
    for (uint64_t i = 1; i <= 4; ++i) { // 32 rows each
        CHECK(kvf_engine_step(engine) == 1);
        CHECK(kvf_engine_stats(engine).steps == i);
        CHECK(kvf_engine_stats(engine).generated_tokens == (i == 4));
        CHECK(kvf_engine_check_integrity(engine));
    }
    CHECK(kvf_engine_hold(engine, false)); // and goes on by itself
    kvf_event event = {};
    do {
        CHECK(kvf_poll(engine, &event, 1, 10000) == 1);
    } while (event.type != KVF_EVENT_DONE);
    CHECK(event.finish == KVF_FINISH_LENGTH);
    kvf_engine_close(engine);
    CHECK(!kvf_engine_check_integrity(engine) && kvf_last_error_kind() == KVF_ERROR_CLOSED);
    CHECK(kvf_engine_step(engine) == -1);
    kvf_engine_free(engine);
    CHECK(!kvf_engine_check_integrity(nullptr) && !kvf_engine_hold(nullptr, true) && kvf_engine_step(nullptr) == -1);
}

int main(int argc, char ** argv) {
    CHECK(argc == 3);
    const Model model(argv[1]);
    test_what_is_broken_is_reported(model);
    test_what_is_saved_is_a_snapshot(model, argv[2]);
    test_the_index_of_the_store(argv[2]);
    test_steps_check_themselves(model);
    test_a_held_engine_steps_when_asked(model);
    return 0;
}
