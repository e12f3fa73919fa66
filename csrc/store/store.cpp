#include "store/store.h"

#include "kvf_error.h"
#include "store/folder.h"

#include "nlohmann/json.hpp"

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <new>
#include <optional>
#include <set>

namespace kvf {

namespace {

using std::chrono::steady_clock;

// bytes that may wait in memory until they are written
constexpr size_t N_BYTES_QUEUED = size_t(256) << 20;

// how many blocks are read before the first of them is taken
constexpr size_t N_BLOCKS_AHEAD = 4;

// how long nothing is tried after a disk has refused
constexpr auto PAUSE = std::chrono::seconds(30);

constexpr auto PATIENCE = std::chrono::seconds(10);

} // namespace

struct Store::State {
    explicit State(Params params)
        : params(std::move(params)), fingerprint(Sha256().add(this->params.description).digest()) {}

    const Params params;
    const Digest fingerprint;

    // For the disk's threads. The mutex is held during looks into the folder, so the engine's thread never takes it.
    std::mutex                   disk_mutex;
    std::optional<const Folder>  folder;
    std::map<std::string, Shelf> shelves;      // by namespace
    steady_clock::time_point     paused_until; // the writer's
    std::string                  why_paused;

    // the engine's side
    mutable std::mutex         mutex;
    std::condition_variable    news;
    uint64_t                   n_news       = 0; // numbers lookups and writes, too
    uint64_t                   n_waited_for = 0;
    std::map<Digest, uint64_t> handed; // segments by name: the number of their write
    size_t                     n_bytes_queued  = 0;
    uint64_t                   n_bytes_written = 0;
    std::string                fault;
    std::set<std::string>      told; // kinds of faults
    uint64_t                   n_refused = 0;
    std::string                last_refusal;

    void tell(const std::string & kind, const std::string & text) {
        const std::lock_guard<std::mutex> lock(mutex);
        if (told.count(kind) == 0) {
            fault += (fault.empty() ? "" : " ") + text;
            told.insert(kind);
        }
    }

    const Folder & open() {
        const std::lock_guard<std::mutex> lock(disk_mutex);
        if (!folder) {
            folder.emplace(params.path);
        }
        return *folder;
    }

    Digest shelf_id(const std::string & name_space) const { return kvf::shelf_id(fingerprint, name_space); }

    // what work(shelf) returns, for the shelf as it is now
    template <typename Work>
    auto with_shelf(const std::string & name_space, const Work & work) {
        const Folder &                    in = open();
        const std::lock_guard<std::mutex> lock(disk_mutex);

        auto it = shelves.find(name_space);
        if (it == shelves.end()) {
            it = shelves.emplace(name_space, Shelf(in, shelf_id(name_space))).first;
        }
        const std::string said = it->second.refresh();
        if (!said.empty()) {
            tell_damage(said.c_str());
        }
        return work(it->second);
    }

    // Writes a segment, if it is not there. Returns why it is not there now, "" if it is. Throws StoreError.
    std::string put(const std::string & name_space, const Segment & segment, const Payload & payload) {
        const Folder &     in = open();
        const Folder::Lock mine(in);
        in.make_shelf(segment.shelf, description(name_space));

        std::vector<std::string> before;
        const bool               is_there = with_shelf(name_space, [&](const Shelf & shelf) {
            before = shelf.paths_before(segment);
            return shelf.covers(segment);
        });
        if (segment.parent != Digest{} && before.empty()) {
            return "what comes before it is not there"; // so it would never be found
        }
        const int64_t now = Folder::now();
        for (const std::string & path : before) {
            Folder::touch(path, now);
        }
        if (is_there) {
            return "";
        }
        if (!in.write(segment, payload, params.max_bytes, { before.begin(), before.end() })) {
            tell("room", "The store has no room for a prompt: it may have " + std::to_string(params.max_bytes) +
                             " bytes. Raise cache_size to keep prompts of that length.");
            return "it has no room, with cache_size = " + std::to_string(params.max_bytes);
        }
        with_shelf(name_space, [&](Shelf & shelf) {
            shelf.add(segment);
            Folder::touch(shelf.path(segment), now);
            for (const Segment & other : shelf.covered_by(segment)) {
                Folder::remove(shelf.path(other));
                shelf.forget(other);
            }
            return true;
        });
        const std::lock_guard<std::mutex> lock(mutex);
        n_bytes_written += file_size(segment, payload.size);
        return "";
    }

    std::string description(const std::string & name_space) const {
        nlohmann::ordered_json about = nlohmann::ordered_json::parse(params.description);
        about["name"]                = params.name;
        about["namespace"]           = name_space;
        return about.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
    }

    // these two are called in handlers of exceptions: a fault is lost if there is no memory to report it

    void tell_damage(const char * said) noexcept {
        try {
            tell("damage",
                 std::string("The store had a damaged file, ") + said +
                     ". It was removed, and what it had is computed again; so will others be, without a word.");
        } catch (const std::bad_alloc &) {
        }
    }

    void tell_refusal(const char * kind, const char * doing, const std::exception & why) noexcept {
        try {
            tell(kind,
                 std::string("The store cannot be ") + doing + ": " + reason(why) + ". Answers do not depend on it.");
        } catch (const std::bad_alloc &) {
        }
    }
};

size_t Store::Lookup::n() const {
    return pieces_.empty() ? 0 : pieces_.back().segment.begin + pieces_.back().n;
}

struct Store::Reading::Shared {
    std::shared_ptr<Store::State> state;
    std::vector<Shelf::Piece>     pieces;
    Worker *                      reader;

    // under the mutex of the state
    size_t            i_next   = 0; // of pieces: to be read next
    size_t            n_posted = 0;
    bool              ended    = false;
    std::deque<Block> ready;

    // reads the next piece
    void read_next() {
        size_t i;
        {
            const std::lock_guard<std::mutex> lock(state->mutex);
            if (ended || i_next == pieces.size()) {
                return;
            }
            i = i_next++;
        }
        Block block;
        bool  good = false;
        try {
            const Folder &    folder  = state->open();
            const Segment &   segment = pieces[i].segment;
            const std::string path    = folder.shelf_path(segment.shelf) + "/" + segment.file_name();
            try {
                block.segment = segment;
                block.n       = pieces[i].n;
                block.payload = read_payload(path, segment);
                good          = true;
            } catch (const DamagedError & e) {
                state->tell_damage(e.what());
                Folder::remove(path);
            }
            if (good && i + 1 == pieces.size()) { // all of the chain is as fresh as its end
                const int64_t now = Folder::now();
                for (const Shelf::Piece & piece : pieces) {
                    Folder::touch(folder.shelf_path(piece.segment.shelf) + "/" + piece.segment.file_name(), now);
                }
            }
        } catch (const std::exception & e) {
            good = false;
            state->tell_refusal("read", "read", e);
        }
        {
            const std::lock_guard<std::mutex> lock(state->mutex);
            try {
                if (good) {
                    ready.push_back(std::move(block));
                }
            } catch (const std::bad_alloc &) {
                good = false;
            }
            ended = ended || !good || i + 1 == pieces.size();
            ++state->n_news;
            state->news.notify_all();
        }
    }
};

Store::Reading::State Store::Reading::state() const {
    const std::lock_guard<std::mutex> lock(shared_->state->mutex);
    return !shared_->ready.empty() ? READY : shared_->ended ? ENDED : READING;
}

Store::Reading::Block Store::Reading::take() {
    Block block;
    {
        const std::lock_guard<std::mutex> lock(shared_->state->mutex);
        block = std::move(shared_->ready.front());
        shared_->ready.pop_front();
        if (shared_->n_posted == shared_->pieces.size()) {
            return block;
        }
        ++shared_->n_posted;
    }
    shared_->reader->post([shared = shared_] { shared->read_next(); });
    return block;
}

Store::Store(Params params) : state_(std::make_shared<State>(std::move(params))) {
    // temporary files of processes that have died
    writer_.post([state = state_] {
        try {
            const Folder &     folder = state->open();
            const Folder::Lock mine(folder);
            folder.clean();
        } catch (const std::exception & e) {
            state->tell_refusal("write", "written", e);
        }
    });
}

Store::~Store() = default;

std::shared_ptr<Store::Lookup> Store::look_up(const std::string &      name_space,
                                              std::vector<llama_token> tokens,
                                              size_t                   n_max) {
    auto lookup = std::make_shared<Lookup>();
    reader_.post([state = state_, lookup, name_space, tokens = std::move(tokens), n_max] {
        try {
            lookup->pieces_ =
                state->with_shelf(name_space, [&](const Shelf & shelf) { return shelf.find(tokens, n_max); });
        } catch (const std::exception & e) {
            state->tell_refusal("read", "read", e);
        }
        const std::lock_guard<std::mutex> lock(state->mutex);
        lookup->number_ = ++state->n_news;
        lookup->done_   = true;
        state->news.notify_all();
    });
    return lookup;
}

std::unique_ptr<Store::Reading> Store::read(const std::vector<Shelf::Piece> & pieces, size_t begin) {
    auto shared    = std::make_shared<Reading::Shared>();
    shared->state  = state_;
    shared->reader = &reader_;
    for (const Shelf::Piece & piece : pieces) {
        if (piece.segment.begin + piece.n > begin) {
            shared->pieces.push_back(piece);
        }
    }
    shared->n_posted = std::min(N_BLOCKS_AHEAD, shared->pieces.size());
    shared->ended    = shared->pieces.empty();
    for (size_t i = 0; i < shared->n_posted; ++i) {
        reader_.post([shared] { shared->read_next(); });
    }
    auto reading     = std::make_unique<Reading>();
    reading->shared_ = shared;
    return reading;
}

Digest Store::shelf(const std::string & name_space) const {
    return state_->shelf_id(name_space);
}

std::string Store::stored(const std::string & name_space, const std::vector<llama_token> & tokens) {
    return state_->with_shelf(name_space, [&](const Shelf & shelf) {
        size_t                 n     = 0;
        nlohmann::ordered_json files = nlohmann::ordered_json::array();
        for (const Shelf::Piece & piece : shelf.find(tokens, tokens.size())) {
            n += piece.n;
            if (piece.n == piece.segment.tokens.size()) { // of the others, the rest is of other prompts
                files.push_back(to_hex(shelf.id()) + "/" + piece.segment.file_name());
            }
        }
        return nlohmann::ordered_json{ { "tokens", n }, { "files", std::move(files) } }.dump();
    });
}

std::string Store::fault_of_index() {
    std::vector<std::string> name_spaces;
    {
        const std::lock_guard<std::mutex> lock(state_->disk_mutex);
        for (const auto & [name_space, shelf] : state_->shelves) {
            name_spaces.push_back(name_space);
        }
    }
    for (const std::string & name_space : name_spaces) {
        const std::string fault = state_->with_shelf(name_space, [](const Shelf & shelf) { return shelf.fault(); });
        if (!fault.empty()) {
            return fault;
        }
    }
    return "";
}

bool Store::wants(const Digest & name, uint64_t lookup) const {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    const auto                        it = state_->handed.find(name);
    return it == state_->handed.end() || it->second < lookup;
}

bool Store::has_room() const {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    return state_->n_bytes_queued < N_BYTES_QUEUED;
}

void Store::write(const std::string & name_space, Segment segment, Payload payload) {
    const Digest name = segment.name();
    // std::function wants to copy what it holds
    auto kept = std::make_shared<std::pair<Segment, Payload>>(std::move(segment), std::move(payload));

    std::function<void()> work = [state = state_, name_space, name, kept] {
        std::string why_not = state->why_paused;
        if (steady_clock::now() >= state->paused_until) {
            try {
                why_not = state->put(name_space, kept->first, kept->second);
            } catch (const std::exception & e) {
                why_not = state->why_paused = e.what();
                state->paused_until         = steady_clock::now() + PAUSE;
                state->tell_refusal("write", "written", e);
            }
        }
        const std::lock_guard<std::mutex> lock(state->mutex);
        ++state->n_news;
        state->n_bytes_queued -= kept->second.size;
        if (why_not.empty()) {
            state->handed[name] = state->n_news;
        } else {
            state->handed.erase(name);
            ++state->n_refused;
            state->last_refusal = why_not;
        }
        state->news.notify_all();
    };
    const std::lock_guard<std::mutex> lock(state_->mutex);
    state_->handed[name] = UINT64_MAX; // until it is known whether it is there
    try {
        writer_.post(std::move(work));
    } catch (...) {
        state_->handed.erase(name);
        throw;
    }
    state_->n_bytes_queued += kept->second.size;
}

bool Store::finish() {
    return finish(writer_);
}

bool Store::finish_lookups() {
    return finish(reader_);
}

bool Store::finish(Worker & worker) {
    if (worker.finish(PATIENCE)) {
        return true;
    }
    is_slow();
    return false;
}

void Store::try_again() {
    writer_.post([state = state_] { state->paused_until = {}; });
}

uint64_t Store::n_refused() const {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    return state_->n_refused;
}

std::string Store::last_refusal() const {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    return state_->last_refusal;
}

void Store::wait(std::chrono::milliseconds limit) {
    std::unique_lock<std::mutex> lock(state_->mutex);
    state_->news.wait_for(lock, limit, [&] { return state_->n_news != state_->n_waited_for; });
    state_->n_waited_for = state_->n_news;
}

std::string Store::take_fault() {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    std::string                       fault;
    std::swap(fault, state_->fault);
    return fault;
}

void Store::is_slow() {
    state_->tell("slow", "The store at " + state_->params.path +
                             " does not answer in time: what it has is computed. Use a faster disk for cache_dir.");
}

uint64_t Store::n_bytes_written() const {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    return state_->n_bytes_written;
}

} // namespace kvf
