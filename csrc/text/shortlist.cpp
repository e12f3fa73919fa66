#include "text/shortlist.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace kvf {

namespace {

constexpr int32_t N_LANES = 16; // side by side, or no compiler makes vectors of it
constexpr int32_t N_BLOCK = 4 * N_LANES;

// the greatest of a whole block; NaN if one of them is not a number
float max_of_block(const float * row) {
    float   lanes[N_LANES];
    int32_t is_nan[N_LANES] = {};
    std::copy_n(row, N_LANES, lanes);
    for (int32_t i = 0; i < N_BLOCK; i += N_LANES) {
        for (int32_t k = 0; k < N_LANES; ++k) {
            lanes[k] = row[i + k] > lanes[k] ? row[i + k] : lanes[k];
            is_nan[k] |= row[i + k] != row[i + k];
        }
    }
    float   max = lanes[0];
    int32_t bad = 0;
    for (int32_t k = 0; k < N_LANES; ++k) {
        max = lanes[k] > max ? lanes[k] : max;
        bad |= is_nan[k];
    }
    return bad ? NAN : max;
}

} // namespace

std::vector<llama_token_data> shortlist(const float * row, int32_t n, int32_t k) {
    const int32_t n_blocks = n / N_BLOCK;
    if (k < 1 || n_blocks <= k) {
        return {};
    }
    std::vector<float> max(n_blocks);
    for (int32_t i = 0; i < n_blocks; ++i) {
        max[i] = max_of_block(row + i * N_BLOCK);
        if (!(max[i] < INFINITY)) {
            return {};
        }
    }
    std::vector<float> sorted = max;
    // one more than k, to see that the k-th is greater than the next
    std::nth_element(sorted.begin(), sorted.begin() + k, sorted.end(), std::greater<float>());
    const float least = sorted[k];

    std::vector<llama_token_data> out;
    const auto                    look_at = [&](int32_t from, int32_t to) {
        for (int32_t i = from; i < to; ++i) {
            if (!(row[i] < least)) {
                out.push_back({ i, row[i], 0.0f });
            }
        }
    };
    for (int32_t i = 0; i < n_blocks; ++i) {
        if (max[i] >= least) {
            look_at(i * N_BLOCK, (i + 1) * N_BLOCK);
        }
    }
    look_at(n_blocks * N_BLOCK, n);

    std::vector<float> greatest;
    for (const llama_token_data & token : out) {
        if (std::isnan(token.logit)) {
            return {};
        }
        greatest.push_back(token.logit);
    }
    std::partial_sort(greatest.begin(), greatest.begin() + k + 1, greatest.end(), std::greater<float>());
    for (int32_t i = 0; i < k; ++i) {
        if (!(greatest[i] > greatest[i + 1] && greatest[i] < INFINITY)) {
            return {};
        }
    }
    return out;
}

} // namespace kvf
