// The store's side of the disk, without a model: what is damaged is found, who dies leaves nothing half done, who may not
// write still reads, and nothing is larger than it may be.
//
// usage: test_store FOLDER

#include "check.h"
#include "store/folder.h"
#include "store/import.h"
#include "store/inventory.h"
#include "store/store.h"

#include "nlohmann/json.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#if defined(__linux__)
#    include <sys/syscall.h>
#endif
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <mutex>
#include <random>
#include <thread>

using kvf::Digest;
using kvf::Payload;
using kvf::Segment;
using kvf::Store;

namespace fs = std::filesystem;

using Tokens = std::vector<llama_token>;

static Store::Params params_of(const std::string & path, uint64_t max_bytes = 1u << 30) {
    Store::Params params;
    params.path        = path;
    params.max_bytes   = max_bytes;
    params.description = R"({"weights":"a model","build":"this one"})";
    params.name        = "model.gguf";
    return params;
}

// a payload that follows from the tokens and those before them, so that a wrong one is seen
static Payload payload_of(const Segment & segment, size_t n_bytes) {
    Payload      payload(n_bytes);
    std::mt19937 rng(static_cast<uint32_t>(segment.tokens[0] + (segment.parent[0] << 16)));
    for (size_t i = 0; i < n_bytes; ++i) {
        payload.data[i] = static_cast<uint8_t>(rng());
    }
    return payload;
}

static std::vector<Segment> chain_of(const Store & store, const Tokens & tokens, size_t n_segment) {
    std::vector<Segment> chain;
    for (size_t begin = 0; begin < tokens.size(); begin += n_segment) {
        Segment segment;
        segment.shelf  = store.shelf("");
        segment.parent = chain.empty() ? Digest{} : chain.back().name();
        segment.begin  = static_cast<uint32_t>(begin);
        segment.tokens.assign(tokens.begin() + begin, tokens.begin() + std::min(tokens.size(), begin + n_segment));
        chain.push_back(segment);
    }
    return chain;
}

static Tokens tokens_of(uint32_t seed, size_t n) {
    std::mt19937 rng(seed);
    Tokens       tokens(n);
    for (llama_token & token : tokens) {
        token = static_cast<llama_token>(rng() % 30000);
    }
    return tokens;
}

static void write_all(Store & store, const Tokens & tokens, size_t n_segment, size_t n_bytes) {
    for (const Segment & segment : chain_of(store, tokens, n_segment)) {
        store.write("", segment, payload_of(segment, n_bytes));
    }
}

// the tokens that can be read, all of whose payloads are right
static size_t n_readable(Store & store, const Tokens & tokens) {
    const auto lookup = store.look_up("", tokens, tokens.size());
    while (!lookup->done()) {
        store.wait(std::chrono::milliseconds(10));
    }
    const auto reading = store.read(lookup->pieces(), 0);
    size_t     n       = 0;
    for (;;) {
        switch (reading->state()) {
            case Store::Reading::READING:
                store.wait(std::chrono::milliseconds(10));
                continue;
            case Store::Reading::ENDED:
                return n;
            case Store::Reading::READY:
                break;
        }
        const Store::Reading::Block block    = reading->take();
        const Payload               expected = payload_of(block.segment, block.payload.size);
        CHECK(block.segment.begin == n);
        CHECK(std::memcmp(block.payload.data.get(), expected.data.get(), expected.size) == 0);
        n += block.n;
    }
}

static uint64_t n_bytes_in(const std::string & path) {
    uint64_t        n = 0;
    std::error_code error;
    for (fs::recursive_directory_iterator it(path, error), end; it != end; it.increment(error)) {
        std::error_code gone;
        const auto      size = it->is_regular_file(gone) ? it->file_size(gone) : 0;
        n += gone ? 0 : size;
    }
    return n;
}

static std::vector<fs::path> segments_in(const std::string & path) {
    std::vector<fs::path> out;
    for (const auto & entry : fs::recursive_directory_iterator(path)) {
        if (kvf::end_of_file_name(entry.path().filename()) > 0) {
            out.push_back(entry.path());
        }
    }
    std::sort(out.begin(), out.end());
    return out;
}

static size_t n_unfinished_in(const std::string & path) {
    size_t n = 0;
    for (const auto & entry : fs::recursive_directory_iterator(path)) {
        n += entry.path().extension() == ".part";
    }
    return n;
}

#if defined(__linux__)

// What the store asks of the system, in its order: its calls come here first, since this is linked before the C library.
static std::mutex               calls_mutex;
static std::vector<std::string> calls;

static void note_call(const std::string & what, const std::string & path) {
    const std::lock_guard<std::mutex> lock(calls_mutex);
    calls.push_back(what + " " + path);
}

extern "C" int fsync(int fd) {
    std::error_code error;
    note_call("fsync", fs::read_symlink("/proc/self/fd/" + std::to_string(fd), error).string());
    return static_cast<int>(::syscall(SYS_fsync, fd));
}

extern "C" int rename(const char * from, const char * to) noexcept {
    note_call("rename", fs::absolute(from).lexically_normal().string());
    return static_cast<int>(::syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}

// data is on the disk before it has its name, and the name is before anything else
static void test_names_come_after_data(const std::string & path) {
    calls.clear();
    Store store(params_of(path));
    write_all(store, tokens_of(1, 256), 64, 1000);
    CHECK(store.finish());

    const std::string                 start = "rename ";
    const std::string                 end   = ".kv.part";
    const std::lock_guard<std::mutex> lock(calls_mutex);
    size_t                            n_renamed = 0;
    for (size_t i = 0; i < calls.size(); ++i) {
        const std::string & call = calls[i];
        if (call.rfind(start, 0) != 0 || call.substr(call.size() - end.size()) != end) {
            continue;
        }
        ++n_renamed;
        const fs::path file = call.substr(start.size());
        CHECK(i > 0 && calls[i - 1] == "fsync " + file.string());
        CHECK(i + 1 < calls.size() && calls[i + 1] == "fsync " + file.parent_path().string());
    }
    CHECK(n_renamed == 4);
}

#endif

static void test_what_was_written_is_found(const std::string & path) {
    const mode_t before = ::umask(0);
    {
        Store        store(params_of(path));
        const Tokens tokens = tokens_of(1, 1000);
        CHECK(n_readable(store, tokens) == 0);
        write_all(store, tokens, 256, 1000);
        CHECK(store.finish());
        CHECK(n_readable(store, tokens) == 1000);

        // a prompt that turns off in the middle of a segment; one in another namespace
        Tokens other = tokens;
        other[600]++;
        CHECK(n_readable(store, other) == 600);
        const auto lookup = store.look_up("another", tokens, tokens.size());
        while (!lookup->done()) {
            store.wait(std::chrono::milliseconds(10));
        }
        CHECK(lookup->n() == 0);

        // the same tokens behind others are something else
        Tokens behind_others = tokens_of(5, 256);
        behind_others.insert(behind_others.end(), tokens.begin() + 256, tokens.begin() + 512);
        write_all(store, behind_others, 256, 1000);
        CHECK(store.finish());
        CHECK(n_readable(store, behind_others) == 512);
        CHECK(n_readable(store, tokens) == 1000);

        // a longer end makes the shorter one superfluous
        const size_t n_files = segments_in(path).size();
        Tokens       longer  = tokens;
        longer.push_back(7);
        write_all(store, longer, 256, 1000);
        CHECK(store.finish());
        CHECK(segments_in(path).size() == n_files);
        CHECK(n_readable(store, longer) == 1001);
        CHECK(n_readable(store, tokens) == 1000);
        CHECK(store.take_fault().empty());
    }
    ::umask(before);
    for (const auto & entry : fs::recursive_directory_iterator(path)) {
        const auto mode = entry.status().permissions();
        CHECK(mode == (entry.is_directory() ? fs::perms::owner_all : fs::perms::owner_read | fs::perms::owner_write));
    }
    CHECK(fs::status(path).permissions() == fs::perms::owner_all);

    Store another(params_of(path)); // as another process
    CHECK(n_readable(another, tokens_of(1, 1000)) == 1000);

    fs::permissions(path, fs::perms::all);
    Store open_to_all(params_of(path));
    CHECK(n_readable(open_to_all, tokens_of(1, 1000)) == 0);
    CHECK(open_to_all.take_fault().find("chmod 700") != std::string::npos);
    fs::permissions(path, fs::perms::owner_all);
}

// bytes changed, cut off, put in, files exchanged, of other forms, of another shelf
static void test_every_damage_is_found(const std::string & path, int n_rounds) {
    const Tokens tokens = tokens_of(1, 512);
    {
        Store store(params_of(path));
        write_all(store, tokens, 64, 300);
        write_all(store, tokens_of(2, 128), 64, 300);
        CHECK(store.finish());
    }
    const std::string spare = path + ".spare";
    fs::remove_all(spare);
    fs::copy(path, spare, fs::copy_options::recursive);
    fs::permissions(spare, fs::perms::owner_all);
    std::mt19937 rng(1);

    for (int round = 0; round < n_rounds; ++round) {
        const auto files = segments_in(path);
        // what a process sees that comes later: any file may have been changed
        const fs::path victim  = files[rng() % files.size()];
        const uint32_t end     = kvf::end_of_file_name(victim.filename());
        const auto     n_bytes = static_cast<size_t>(fs::file_size(victim));
        std::string    bytes(n_bytes, '\0');
        std::ifstream(victim, std::ios::binary).read(bytes.data(), static_cast<std::streamsize>(n_bytes));
        const std::string as_it_was = bytes;

        switch (rng() % 6) {
            case 0: // a bit
                bytes[rng() % n_bytes] ^= static_cast<char>(1 << rng() % 8);
                break;
            case 1: // some bytes
                for (size_t i = rng() % n_bytes, left = rng() % 64 + 1; left > 0 && i < n_bytes; ++i, --left) {
                    bytes[i] = static_cast<char>(rng());
                }
                break;
            case 2: // its end, or all of it
                bytes.resize(rng() % n_bytes);
                break;
            case 3: // more than there was
                bytes.append(rng() % 100 + 1, static_cast<char>(rng()));
                break;
            case 4: { // what another file has
                const fs::path other = files[rng() % files.size()];
                std::string    others(fs::file_size(other), '\0');
                std::ifstream(other, std::ios::binary).read(others.data(), static_cast<std::streamsize>(others.size()));
                bytes = others;
                break;
            }
            default: // a form that is not known
                bytes[8] ^= static_cast<char>(rng() % 255 + 1);
                break;
        }
        if (bytes == as_it_was) {
            continue;
        }
        std::ofstream(victim, std::ios::binary | std::ios::trunc)
            .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));

        // reading it must fail, whoever does
        bool found = false;
        try {
            const Segment segment = kvf::read_segment(victim);
            found                 = segment.file_name() != victim.filename();
            if (!found) {
                kvf::read_payload(victim, segment);
            }
        } catch (const kvf::DamagedError &) {
            found = true;
        }
        CHECK(found);

        if (round % 50 == 0) { // and a whole store, which goes on
            Store        store(params_of(path));
            const size_t n       = n_readable(store, tokens);
            bool         is_ours = false;
            for (const Segment & segment : chain_of(store, tokens, 64)) {
                is_ours = is_ours || segment.file_name() == victim.filename();
            }
            CHECK(n == (is_ours ? end - 64 : 512));
            CHECK(!fs::exists(victim) || !is_ours);
            n_readable(store, tokens_of(2, 128));
            CHECK(!fs::exists(victim));
            CHECK(!store.take_fault().empty());
        }
        fs::copy(fs::path(spare) / fs::relative(victim, path), victim, fs::copy_options::overwrite_existing);
    }
    Store store(params_of(path));
    CHECK(n_readable(store, tokens) == 512);
    fs::remove_all(spare);
}

// whatever is written, and by how many
static void test_the_budget_is_kept(const std::string & path) {
    constexpr uint64_t n_most = 100000;
    {
        Store a(params_of(path, n_most));
        Store b(params_of(path, n_most));
        for (uint32_t seed = 1; seed <= 20; ++seed) {
            write_all(a, tokens_of(seed, 512), 64, 1000);
            write_all(b, tokens_of(100 + seed, 512), 64, 1000);
            CHECK(n_bytes_in(path) <= n_most + 2000);
        }
        CHECK(a.finish() && b.finish());
        CHECK(n_bytes_in(path) <= n_most);
        CHECK(n_bytes_in(path) > n_most * 3 / 4);

        // the latest are there, whole: a beginning does not go before its end
        CHECK(n_readable(a, tokens_of(20, 512)) == 512 || n_readable(a, tokens_of(120, 512)) == 512);
        CHECK(n_readable(a, tokens_of(1, 512)) == 0);
        CHECK(a.take_fault().empty());
        for (const fs::path & file : segments_in(path)) {
            const Segment segment = kvf::read_segment(file);
            bool          led_to  = segment.parent == Digest{};
            for (const fs::path & other : segments_in(path)) {
                led_to = led_to || kvf::read_segment(other).name() == segment.parent;
            }
            CHECK(led_to);
        }
    }
    // what is of use stays, and what is of none goes
    fs::remove_all(path);
    Store store(params_of(path, n_most));
    write_all(store, tokens_of(1, 512), 64, 1000);
    CHECK(store.finish());
    for (uint32_t seed = 2; seed <= 30; ++seed) {
        CHECK(n_readable(store, tokens_of(1, 512)) == 512);
        write_all(store, tokens_of(seed, 256), 64, 1000);
        CHECK(store.finish());
    }
    CHECK(n_readable(store, tokens_of(1, 512)) == 512);

    // one that can never fit says so, once, and takes nothing from others
    Store        small(params_of(path, 3000));
    const Tokens tokens = tokens_of(77, 256);
    write_all(small, tokens, 64, 10000);
    CHECK(small.finish());
    CHECK(small.take_fault().find("cache_size") != std::string::npos);
    CHECK(small.take_fault().empty());
}

// two processes that write, killed at any moment: what has a name is whole, and nothing else is left after the next start
static void test_who_is_killed_leaves_nothing(const std::string & path, int n_rounds) {
    std::mt19937 rng(3);
    {
        Store store(params_of(path, 2000000));
        write_all(store, tokens_of(1, 512), 64, 2000);
        CHECK(store.finish());
    }
    for (int round = 0; round < n_rounds; ++round) {
        pid_t children[2];
        for (pid_t & child : children) {
            child = ::fork();
            CHECK(child >= 0);
            if (child == 0) {
                Store store(params_of(path, 2000000));
                for (uint32_t seed = 1; seed < 1000; ++seed) {
                    write_all(store,
                              tokens_of(1000u * static_cast<uint32_t>(round) + seed + (&child - children) * 500u, 256),
                              64, 20000);
                    store.finish();
                }
                ::_exit(0);
            }
        }
        std::this_thread::sleep_for(std::chrono::microseconds(rng() % 15000));
        for (const pid_t child : children) {
            CHECK(::kill(child, SIGKILL) == 0);
        }
        for (const pid_t child : children) {
            int status = 0;
            CHECK(::waitpid(child, &status, 0) == child);
        }
        for (const fs::path & file : segments_in(path)) {
            const Segment segment = kvf::read_segment(file); // throws what ends the test
            kvf::read_payload(file, segment);
        }
        Store store(params_of(path, 2000000));
        CHECK(store.finish());
        CHECK(n_unfinished_in(path) == 0);
        CHECK(n_readable(store, tokens_of(1, 512)) == 512);
        CHECK(store.take_fault().empty());
    }
}

static void test_a_full_disk_costs_only_what_is_new(const std::string & path) {
    {
        Store store(params_of(path));
        write_all(store, tokens_of(1, 256), 64, 1000);
        CHECK(store.finish());
    }
    rlimit before = {};
    CHECK(::getrlimit(RLIMIT_FSIZE, &before) == 0);
    rlimit limit   = before;
    limit.rlim_cur = 4096;
    CHECK(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
    Store store(params_of(path));
    write_all(store, tokens_of(2, 256), 64, 100000);
    CHECK(store.finish());
    const std::string fault = store.take_fault();
    CHECK(::setrlimit(RLIMIT_FSIZE, &before) == 0);
    CHECK(fault.find("cannot be written") != std::string::npos);
    CHECK(store.take_fault().empty());
    CHECK(n_readable(store, tokens_of(1, 256)) == 256);
    CHECK(n_readable(store, tokens_of(2, 256)) == 0);
    CHECK(n_unfinished_in(path) == 0);

    // who asks for it is told each time, and the disk is tried again at once, not after a while
    CHECK(store.n_refused() == 4);
    CHECK(store.last_refusal().find("File too large") != std::string::npos);
    write_all(store, tokens_of(2, 256), 64, 100000);
    CHECK(store.finish() && store.n_refused() == 8);
    store.try_again();
    write_all(store, tokens_of(2, 256), 64, 100000);
    CHECK(store.finish() && store.n_refused() == 8);
    CHECK(n_readable(store, tokens_of(2, 256)) == 256);
}

// who waits for what was handed over does not wait for what comes after it
static void test_a_wait_ends_while_others_write() {
    kvf::Worker           worker;
    std::atomic<bool>     goes_on{ true };
    std::function<void()> again = [&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        if (goes_on) {
            worker.post(again);
        }
    };
    worker.post(again);
    CHECK(worker.finish(std::chrono::seconds(10)));
    CHECK(worker.finish(std::chrono::seconds(10)));
    goes_on = false;
    CHECK(worker.finish(std::chrono::seconds(10)));
    CHECK(worker.finish(std::chrono::seconds(10)));
}

static void test_a_store_that_can_only_be_read_is_read(const std::string & path) {
    {
        Store store(params_of(path));
        write_all(store, tokens_of(1, 256), 64, 1000);
        CHECK(store.finish());
    }
    // root may write anywhere, so it becomes somebody else meanwhile
    const uid_t me = ::geteuid();
    for (const auto & entry : fs::recursive_directory_iterator(path)) {
        fs::permissions(entry.path(), entry.is_directory() ? fs::perms(0555) : fs::perms(0444));
    }
    fs::permissions(path, fs::perms(0555));
    if (me == 0) {
        CHECK(::seteuid(65534) == 0);
    }
    {
        Store store(params_of(path));
        CHECK(n_readable(store, tokens_of(1, 256)) == 256);
        write_all(store, tokens_of(2, 256), 64, 1000);
        CHECK(store.finish());
        CHECK(store.take_fault().find("cannot be written") != std::string::npos);
        CHECK(n_readable(store, tokens_of(1, 256)) == 256);
    }
    if (me == 0) {
        CHECK(::seteuid(0) == 0);
    }
    fs::permissions(path, fs::perms::owner_all);
    for (const auto & entry : fs::recursive_directory_iterator(path)) {
        fs::permissions(entry.path(), fs::perms::owner_all);
    }
}

static void test_a_store_that_goes_away_costs_sharing(const std::string & path) {
    Store store(params_of(path));
    write_all(store, tokens_of(1, 256), 64, 1000);
    CHECK(store.finish());
    fs::remove_all(path);
    CHECK(n_readable(store, tokens_of(1, 256)) == 0);
    write_all(store, tokens_of(2, 256), 64, 1000);
    CHECK(store.finish());
    CHECK(!fs::exists(path)); // a volume that is gone is not written beside
    CHECK(store.take_fault().find("cannot be written") != std::string::npos);
    CHECK(n_readable(store, tokens_of(2, 256)) == 0);

    // a file where the folder ought to be
    std::ofstream(path) << "x";
    Store none(params_of(path));
    CHECK(n_readable(none, tokens_of(1, 256)) == 0);
    CHECK(none.take_fault().find("Not a directory") != std::string::npos);
    fs::remove(path);
}

static void test_the_inventory_tells_and_prunes(const std::string & path) {
    {
        Store store(params_of(path));
        write_all(store, tokens_of(1, 256), 64, 1000);
        write_all(store, tokens_of(2, 256), 64, 1000);
        CHECK(store.finish());
    }
    auto list = nlohmann::json::parse(kvf::list_store(path, true));
    CHECK(list.size() == 1 && list[0]["files"] == 8 && list[0]["tokens"] == 512 && list[0]["damaged"].empty());

    // the second of a chain is damaged: it goes, and the two that it leads to
    for (const fs::path & file : segments_in(path)) {
        if (kvf::end_of_file_name(file.filename()) == 128) {
            fs::resize_file(file, fs::file_size(file) - 1);
            break;
        }
    }
    list = nlohmann::json::parse(kvf::list_store(path, false));
    CHECK(list[0]["damaged"].size() == 1);
    const auto pruned = nlohmann::json::parse(kvf::prune_store(path, UINT64_MAX));
    CHECK(pruned["files"] == 3 && pruned["bytes"] > 3000);
    kvf::prune_store(path, 0);
    CHECK(segments_in(path).empty());

    bool refused = false;
    try {
        kvf::list_store(path + "/nowhere", false);
    } catch (const kvf::StoreError &) {
        refused = true;
    }
    CHECK(refused && !fs::exists(path + "/nowhere"));
}

// a store that somebody else has made: what its shelf says of itself may be anything
static void test_a_strange_description_harms_nobody(const std::string & path, const std::string & from) {
    {
        Store store(params_of(from));
        write_all(store, tokens_of(1, 128), 64, 100);
        CHECK(store.finish());
    }
    const fs::path about = segments_in(from)[0].parent_path() / "about.json";
    const auto     check = [&] {
        const auto list = nlohmann::json::parse(kvf::list_store(from, true));
        CHECK(list.size() == 1 && list[0]["files"] == 2 && list[0]["damaged"].empty());
        const auto found = nlohmann::json::parse(kvf::import_store(path, from, UINT64_MAX, "{}"));
        CHECK(found["files"] == 0 && found["refused"].size() == 2);
        kvf::prune_store(from, UINT64_MAX);
        fs::remove_all(about);
        fs::remove_all(path);
    };
    const std::string deep(300000, '[');
    for (const std::string & text : {
             std::string("{\"namespace\""),                                                    // cut off
             std::string("[1]"),                                                               // no object
             "{\"namespace\": \"\", \"build\": " + deep + std::string(deep.size(), ']') + "}", // nested without measure
             std::string(size_t(2) << 20, ' ') + "{\"namespace\": \"\"}",                      // without end
         }) {
        std::ofstream(about, std::ios::binary) << text;
        check();
    }
    CHECK(::mkfifo(about.c_str(), 0600) == 0); // who reads it waits for somebody who writes
    check();
    fs::create_directory(about);
    check();
    fs::create_symlink("/dev/zero", about);
    check();
    fs::remove_all(from);
}

static void test_another_store_is_taken_in(const std::string & path, const std::string & from) {
    const std::string build = R"({"build":"this one"})";
    fs::remove_all(from);
    {
        Store store(params_of(from));
        write_all(store, tokens_of(1, 256), 64, 1000);
        write_all(store, tokens_of(2, 256), 64, 1000);
        CHECK(store.finish());
    }
    auto found = nlohmann::json::parse(kvf::import_store(path, from, UINT64_MAX, build));
    CHECK(found["files"] == 8 && found["tokens"] == 512 && found["known"] == 0 && found["refused"].empty());
    found = nlohmann::json::parse(kvf::import_store(path, from, UINT64_MAX, build));
    CHECK(found["files"] == 0 && found["known"] == 8);
    {
        Store store(params_of(path));
        CHECK(n_readable(store, tokens_of(1, 256)) == 256 && n_readable(store, tokens_of(2, 256)) == 256);
    }
    // no more than there is room for, and nothing of what is damaged, or of what it leads to
    fs::remove_all(path);
    found = nlohmann::json::parse(kvf::import_store(path, from, 4000, build));
    CHECK(found["files"].get<int>() + static_cast<int>(found["refused"].size()) == 8 && !found["refused"].empty());
    fs::remove_all(path);
    for (const fs::path & file : segments_in(from)) {
        if (kvf::end_of_file_name(file.filename()) == 128) {
            fs::resize_file(file, fs::file_size(file) - 1);
            break;
        }
    }
    found = nlohmann::json::parse(kvf::import_store(path, from, UINT64_MAX, build));
    CHECK(found["files"] == 5 && found["refused"].size() == 3);
    CHECK(n_unfinished_in(path) == 0);
    // another build's, and a store that is not there
    found = nlohmann::json::parse(kvf::import_store(path, from, UINT64_MAX, R"({"build":"another"})"));
    CHECK(found["files"] == 0 && found["refused"].size() == 8);
    bool refused = false;
    try {
        kvf::import_store(path, from + "/nowhere", UINT64_MAX, build);
    } catch (const kvf::StoreError &) {
        refused = true;
    }
    CHECK(refused && !fs::exists(from + "/nowhere"));
    fs::remove_all(from);
}

int main(int argc, char ** argv) {
    CHECK(argc == 2);
    const std::string path = argv[1];
    const auto        anew = [&] {
        fs::remove_all(path);
        return path;
    };
#if defined(__linux__)
    test_names_come_after_data(anew());
#endif
    test_what_was_written_is_found(anew());
    test_every_damage_is_found(anew(), 10000);
    test_the_budget_is_kept(anew());
    test_who_is_killed_leaves_nothing(anew(), 200);
    test_a_full_disk_costs_only_what_is_new(anew());
    test_a_store_that_can_only_be_read_is_read(anew());
    test_a_store_that_goes_away_costs_sharing(anew());
    test_a_wait_ends_while_others_write();
    test_the_inventory_tells_and_prunes(anew());
    test_a_strange_description_harms_nobody(anew(), path + ".other");
    test_another_store_is_taken_in(anew(), path + ".other");
    fs::remove_all(path);
    return 0;
}
