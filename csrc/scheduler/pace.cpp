#include "scheduler/pace.h"

#include <algorithm>

namespace kvf {

namespace {

// follows what changes (a prompt's later rows have more to attend to), and gets over a step that was disturbed
void follow(double & mean, double value) {
    constexpr double share_of_the_last = 0.5;
    mean                               = mean == 0.0 ? value : mean + share_of_the_last * (value - mean);
}

} // namespace

size_t Pace::n_rows(size_t n_most) const {
    if (max_gap_ms_ <= 0.0) {
        return n_most;
    }
    size_t n = N_FIRST;
    if (row_ms_ > 0.0) {
        const double n_in_time = std::max(0.0, max_gap_ms_ - decode_ms_) / row_ms_;
        n                      = static_cast<size_t>(std::min(n_in_time, static_cast<double>(n_most)));
    }
    return std::min(n_most, std::max(N_LEAST, n / N_LEAST * N_LEAST));
}

void Pace::learn(size_t n_decode, size_t n_rows, double ms) {
    if (n_rows == 0) {
        follow(decode_ms_, ms);
    } else if (n_rows >= N_LEAST) { // of fewer, most of the time is not theirs
        follow(row_ms_, std::max(0.0, ms - (n_decode > 0 ? decode_ms_ : 0.0)) / static_cast<double>(n_rows));
    }
}

std::vector<size_t> share_rows(const std::vector<Prompt> & prompts, size_t n_rows) {
    std::vector<size_t> shares(prompts.size(), 0);

    const auto give = [&](size_t i, size_t n_most) {
        const size_t n = std::min(prompts[i].n_next - shares[i], n_most);
        shares[i] += n;
        return n;
    };

    std::vector<size_t> shorter;
    for (size_t i = 0; i < prompts.size(); ++i) {
        if (2 * prompts[i].n_left < prompts[0].n_left) {
            shorter.push_back(i);
        }
    }
    std::stable_sort(shorter.begin(), shorter.end(),
                     [&](size_t a, size_t b) { return prompts[a].n_left < prompts[b].n_left; });
    size_t n_for_shorter = n_rows / 2;
    for (const size_t i : shorter) {
        const size_t n = give(i, n_for_shorter);
        n_for_shorter -= n;
        n_rows -= n;
    }
    for (size_t i = 0; i < prompts.size(); ++i) {
        n_rows -= give(i, n_rows);
    }
    return shares;
}

} // namespace kvf
