#pragma once

#include <cstddef>
#include <vector>

namespace kvf {

// How many rows of prompts fit into a step in which others decode, so that these need not wait long for their next token.
//
// A step takes the time of its decoding rows and that of its prompts' rows. Both are learned from the steps before.
class Pace {
  public:
    // max_gap_ms: how long a step may take; 0: as long as it takes
    explicit Pace(double max_gap_ms) : max_gap_ms_(max_gap_ms) {}

    // The rows of prompts in the next step, at most n_most. There are always some, or prompts would stand still.
    size_t n_rows(size_t n_most) const;

    // What a step took: n_decode rows of branches that decode, n_rows rows of prompts.
    void learn(size_t n_decode, size_t n_rows, double ms);

  private:
    // what matrix products go through at a time, on the processors that there are
    static constexpr size_t N_LEAST = 16;

    // while nothing is known of the speed
    static constexpr size_t N_FIRST = 32;

    double max_gap_ms_;
    double decode_ms_ = 0.0; // a step without prompts
    double row_ms_    = 0.0; // a row of a prompt; 0: unknown
};

// a prompt that is being computed
struct Prompt {
    size_t n_left; // tokens to its end
    size_t n_next; // of these: up to where others wait to fork it
};

// Shares rows out to prompts, which are in the order of their arrival; returns how many each gets. The oldest goes first,
// so that it comes to its end. But up to half of the rows are for those that are less than half as long as what it has
// left, the shortest first: they need not wait for it.
std::vector<size_t> share_rows(const std::vector<Prompt> & prompts, size_t n_rows);

} // namespace kvf
