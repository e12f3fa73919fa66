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

// Keeps the KV rows of prompts on a disk, for later and for other processes, and finds them by their tokens.
//
// The engine's thread asks questions and hands over data; two threads of the store read and write. Only finish() waits for
// the disk. A fault of the disk costs sharing, never an answer; take_fault() reports each kind once.
class Store {
  public:
    struct Params {
        std::string path;
        uint64_t    max_bytes = 0; // of all its files together
        std::string description;   // of all that the numbers depend on, but tokens and namespace: JSON, an object
        std::string name;          // of the model, for people
    };

    // how much of a prompt the store has
    class Lookup {
      public:
        bool done() const { return done_; }

        // valid once it is done: the pieces that were found, and how many tokens they are
        const std::vector<Shelf::Piece> & pieces() const { return pieces_; }
        size_t                            n() const;

        // lookups and writes share one sequence of numbers: a later one has a higher number
        uint64_t number() const { return number_; }

      private:
        friend class Store;

        std::atomic<bool>         done_{ false };
        std::vector<Shelf::Piece> pieces_;
        uint64_t                  number_ = 0;
    };

    // delivers pieces in their order, while the next ones are still being read
    class Reading {
      public:
        struct Block {
            Segment segment;
            size_t  n = 0; // how many of its tokens are wanted
            Payload payload;
        };

        enum State { READING, READY, ENDED };

        // READY: a block can be taken. ENDED: no more will come, for whatever reason.
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

    // starts reading the tokens of some pieces, from a position on
    std::unique_ptr<Reading> read(const std::vector<Shelf::Piece> & pieces, size_t begin);

    // the hash that the names of a namespace's segments begin with
    Digest shelf(const std::string & name_space) const;

    // Returns how much of a prompt is stored, as JSON (see kvf_engine_stored). It waits for the disk, and throws StoreError.
    std::string stored(const std::string & name_space, const std::vector<llama_token> & tokens);

    // What is wrong with the index of its files, as a sentence; "" if nothing is. It waits for the disk, and throws StoreError.
    std::string fault_of_index();

    // Whether to hand over a segment that a lookup of this number did not find: false if it was handed over since then.
    bool wants(const Digest & name, uint64_t lookup) const;

    // whether the queue of writes has room for more
    bool has_room() const;

    // Queues a segment. It is not written if it is stored already, if there is no room, or if the disk refuses.
    void write(const std::string & name_space, Segment segment, Payload payload);

    // Waits until everything handed over is written; false, and a fault, if the disk does nothing for 10 s.
    bool finish();

    // Waits likewise until all lookups are done.
    bool finish_lookups();

    // lets the next write try a disk that has refused, instead of waiting a while
    void try_again();

    // how many segments were handed over and not stored, and why the last of them was not
    uint64_t    n_refused() const;
    std::string last_refusal() const;

    // waits until a lookup, a read or a write is done, at most this long
    void wait(std::chrono::milliseconds limit);

    // returns the faults since the last call, as sentences; "" if there were none
    std::string take_fault();

    // notes a disk that does not answer in time
    void is_slow();

    uint64_t n_bytes_written() const;

  private:
    struct State;

    bool finish(Worker & worker);

    std::shared_ptr<State> state_; // shared, since the threads may outlive the store
    Worker                 reader_;
    Worker                 writer_;
};

} // namespace kvf
