#include "scheduler/batch.h"

#include <algorithm>

namespace kvf {

Batch::Batch(size_t n_max, double max_gap_ms)
    : n_max_(n_max),
      n_prompts_max_(n_max),
      pace_(max_gap_ms),
      batch_(new llama_batch(llama_batch_init(static_cast<int32_t>(n_max), 0, 1))) {}

std::vector<Rows> Batch::plan(const Started & branches) const {
    std::vector<Rows> rows;
    for (const auto & [id, branch] : branches) {
        if (branch->decodes()) {
            rows.push_back({ branch, 1, false, branch->n_pending() == 1, -1 });
        }
    }
    const size_t n_left = std::min(n_max_ - rows.size(), n_prompts_max_);
    const size_t n_rows = rows.empty() ? n_left : pace_.n_rows(n_left);

    std::vector<Branch *> prefilling;
    std::vector<Prompt>   prompts;
    for (const auto & [id, branch] : branches) {
        if (branch->decodes() || branch->reading) {
            continue;
        }
        size_t     n_next = branch->n_pending();
        const auto n_fork = branch->fork_points.upper_bound(branch->n_cached);
        if (n_fork != branch->fork_points.end()) {
            n_next = std::min(n_next, *n_fork - branch->n_cached);
        }
        prefilling.push_back(branch);
        prompts.push_back({ branch->n_pending(), n_next });
    }
    const std::vector<size_t> shares = share_rows(prompts, n_rows);
    for (size_t i = 0; i < prefilling.size(); ++i) {
        if (shares[i] > 0) {
            rows.push_back({ prefilling[i], shares[i], true, shares[i] == prefilling[i]->n_pending(), -1 });
        }
    }
    return rows;
}

bool Batch::take_fewer(const std::vector<Rows> & rows) {
    constexpr size_t n_few = 16;

    size_t n = 0;
    for (const Rows & r : rows) {
        n += r.is_prefill ? r.n : 0;
    }
    if (n <= n_few) {
        return false;
    }
    n_prompts_max_ = n / 2;
    return true;
}

const llama_batch & Batch::fill(std::vector<Rows> & rows) {
    llama_batch & batch = *batch_;
    batch.n_tokens      = 0;
    for (Rows & r : rows) {
        for (size_t i = 0; i < r.n; ++i) {
            const size_t  pos    = r.branch->n_cached + i;
            const int32_t row    = batch.n_tokens++;
            batch.token[row]     = r.branch->tokens[pos];
            batch.pos[row]       = static_cast<llama_pos>(pos);
            batch.n_seq_id[row]  = 1;
            batch.seq_id[row][0] = r.branch->seq;
            batch.logits[row]    = 0;
        }
        if (r.is_last && r.branch->n_predict != 0) {
            r.i_logits               = batch.n_tokens - 1;
            batch.logits[r.i_logits] = 1;
        }
    }
    return batch;
}

void Batch::computed(const std::vector<Rows> & rows, double ms) {
    size_t n_decoding   = 0;
    size_t n_prefilling = 0;
    for (const Rows & r : rows) { // its branch may have ended
        (r.is_prefill ? n_prefilling : n_decoding) += r.n;
    }
    pace_.learn(n_decoding, n_prefilling, ms);
    n_prompts_max_ = n_max_;
}

} // namespace kvf
