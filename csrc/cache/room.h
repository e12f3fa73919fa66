#pragma once

#include "kvfork.h"
#include "llama-fork.h"
#include "llama-pages.h"

#include <cstddef>
#include <functional>
#include <vector>

namespace kvf {

// How much room the memory has for tokens, and what has to go so that some fit.
//
// A memory has parts: the cells of the layers that see everything, those of a window, those of an indexer; and a token
// needs a cell in each. Room is counted in pages (llama-pages.h) where the memory can be divided into them, else in
// cells. A memory without such parts (recurrent states, one to a sequence) has room for any number of tokens.
class Room {
  public:
    // what some tokens take, by part
    class Need {
      public:
        Need & operator+=(const Need & other);

      private:
        friend class Room;
        std::vector<llama_memory_need> parts_;
    };

    // The sequences that may go, one after the other; -1: no other one may. Asking changes nothing.
    using Next = std::function<llama_seq_id()>;

    // Divides the memory into pages. strict: only whole pages are taken, each behind the one before, which makes what
    // attention reads for a token independent of what else is in the cache. Throws Error(KVF_ERROR_INVALID) where that
    // cannot be had.
    Room(llama_context * ctx, bool strict);

    // n more tokens on a sequence
    Need need(llama_seq_id seq, size_t n) const;

    // a fork at n_past that is yet to be made, and n tokens on it; n_past = 0 is a new sequence
    Need need_of_fork(size_t n_past, size_t n) const;

    // Whether there is room once those that come first in a line have gone, n_least of them in any case. It asks for as
    // many as it takes to have whole pages. If the line is too short for that, any free cells will do, where pages are not
    // strict; they do at once if pages are not worth it.
    // spared: the sequences that are in no line, so that one that cannot be long enough need not be asked.
    // Nothing is changed: on true, the caller drops those that it was asked for; on false, none.
    bool fits(const Need &                      need,
              size_t                            n_least,
              bool                              pages_are_worth_it,
              const std::vector<llama_seq_id> & spared,
              const Next &                      next) const;

    // moves what is in use to the front, where pages are strict; false if nothing changed
    bool compact();

    bool is_strict() const { return strict_; }

    // the cells of the part that keeps all tokens (of a recurrent memory: the states)
    size_t n_cells() const;
    size_t n_used() const;

    std::vector<kvf_part> parts() const;

    // the pages, over all parts, that attention reads for the next tokens of these sequences
    size_t n_pages_read(const std::vector<llama_seq_id> & seqs) const;

    // the cells of the part that keeps all tokens, in whole pages, that these sequences hold and that something takes
    size_t n_wanted(const std::vector<llama_seq_id> & seqs, const Need & need) const;

  private:
    class Holders;

    bool   has_empty(const Need & need) const;
    size_t n_pages_held(uint32_t i_part, const std::vector<llama_seq_id> & seqs) const;

    llama_context * ctx_;
    llama_memory_t  memory_;
    bool            strict_;
    bool            paged_;
    uint32_t        n_parts_;
};

} // namespace kvf
