#pragma once

#include "scheduler/branch.h"
#include "scheduler/pace.h"

#include "llama.h"

#include <memory>
#include <vector>

namespace kvf {

// the next rows of one branch
struct Rows {
    Branch * branch;
    size_t   n;
    bool     is_prefill;
    bool     is_last;  // they reach the end of its tokens
    int32_t  i_logits; // row of the batch whose logits the next token is sampled from, -1: none
};

// The rows that one llama_decode computes: which ones, and the memory for them.
//
// Whether the cells for them are there is not known here; the scheduler asks for fewer rows if they are not.
class Batch {
  public:
    // n_max: rows at most. max_gap_ms: see Pace; 0 in batch-invariant mode, where what is computed must not depend on
    // how fast it is.
    Batch(size_t n_max, double max_gap_ms);

    // One row for every branch that decodes, and the rest of the batch for the prompts of the others: as many rows as
    // those that decode have time for.
    std::vector<Rows> plan(const Started & branches) const;

    // Plans half as many rows of prompts as these until a batch was computed. False if these are few already.
    bool take_fewer(const std::vector<Rows> & rows);

    // The batch with these rows, until the next call. Sets their i_logits.
    const llama_batch & fill(std::vector<Rows> & rows);

    // These rows have been computed; it took so long, with everything that was done with them.
    void computed(const std::vector<Rows> & rows, double ms);

    size_t n_max() const { return n_max_; }

  private:
    struct Deleter {
        void operator()(llama_batch * batch) const {
            llama_batch_free(*batch);
            delete batch;
        }
    };

    size_t                                n_max_;
    size_t                                n_prompts_max_; // rows of prompts in the next batch
    Pace                                  pace_;
    std::unique_ptr<llama_batch, Deleter> batch_;
};

} // namespace kvf
