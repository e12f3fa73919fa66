#pragma once

#include "llama.h"
#include "store/segment.h"
#include "store/shelf.h"
#include "store/worker.h"

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

namespace kvf {

// What prompts have left in memory, kept on a disk for later and for other processes, and found by tokens like all else.
//
// The engine's thread asks and hands over; two threads of its own read and write. Nothing here waits for a disk but finish().
// What goes wrong there costs sharing, never an answer: it is told of by take_fault(), each kind once.
class Store {
  public:
    struct Params {
        std::string path;
        uint64_t    max_bytes = 0; // of all its files
        std::string description;   // of all that the numbers depend on, but tokens and namespace: JSON, an object
        std::string name;          // of the model, for people
    };

    // how far a prompt is there
    class Lookup {
      public:
        bool done() const { return done_; }

        // when it is done: what it found, and how many tokens that are
        const std::vector<Shelf::Piece> & pieces() const { return pieces_; }
        size_t                            n() const;

        // of two lookups and writes, the later one has the higher number
        uint64_t number() const { return number_; }

      private:
        friend class Store;

        std::atomic<bool>         done_{ false };
        std::vector<Shelf::Piece> pieces_;
        uint64_t                  number_ = 0;
    };

    // what was read, piece by piece, while the next ones are being read
    class Reading {
      public:
        struct Block {
            Segment segment;
            size_t  n = 0; // tokens of it that are wanted
            Payload payload;
        };

        enum State { READING, READY, ENDED };

        // READY: there is a block to take. ENDED: there will be no more, for whatever reason.
        State state() const;
        Block take();

      private:
        friend class Store;

        struct Shared;

        std::shared_ptr<Shared> shared_;
    };

    explicit Store(Params params);
    ~Store();

    std::shared_ptr<Lookup> look_up(const std::string & name_space, std::vector<llama_token> tokens, size_t n_max);

    // the tokens of some pieces from a position on
    std::unique_ptr<Reading> read(const std::vector<Shelf::Piece> & pieces, size_t begin);

    // the hash that a namespace's segments begin with
    Digest shelf(const std::string & name_space) const;

    // What is there of a prompt, as JSON: see kvf_engine_stored. It waits for the disk, and throws StoreError.
    std::string stored(const std::string & name_space, const std::vector<llama_token> & tokens);

    // Whether a segment that is not known to be there should be handed over: it is not, if that was done since a lookup (of
    // this number) did not find it.
    bool wants(const Digest & name, uint64_t lookup) const;

    // there is memory for more to be written
    bool has_room() const;

    // Writes it soon, or never: if it is there already, if there is no room, if the disk refuses.
    void write(const std::string & name_space, Segment segment, Payload payload);

    // Waits until all that was handed over is written; false if the disk does nothing for 10 s, which is told of.
    bool finish();

    // Likewise, until all is looked up that was asked for.
    bool finish_lookups();

    // a disk that has refused is tried at once, and not after a while
    void try_again();

    // segments that were handed over and are not there, and why the last of them is not
    uint64_t    n_refused() const;
    std::string last_refusal() const;

    // waits until something has been found, read or written, but no longer than this
    void wait(std::chrono::milliseconds limit);

    // what went wrong since the last call, for people; "" if nothing did
    std::string take_fault();

    // a disk that does not answer in time
    void is_slow();

    uint64_t n_bytes_written() const;

  private:
    struct State;

    bool finish(Worker & worker);

    std::shared_ptr<State> state_; // the threads may outlive this
    Worker                 reader_;
    Worker                 writer_;
};

} // namespace kvf
