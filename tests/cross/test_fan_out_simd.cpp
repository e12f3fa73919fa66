// The vectors that attention computes with, on whatever processor this is compiled for, against plain loops; `make cross`.

#include "fan-out-simd.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#define CHECK(condition)                                                           \
    do {                                                                           \
        if (!(condition)) {                                                        \
            std::fprintf(stderr, "%d: does not hold: %s\n", __LINE__, #condition); \
            std::exit(1);                                                          \
        }                                                                          \
    } while (false)

// of ggml, which is not linked
extern "C" void ggml_abort(const char *, int, const char *, ...) {
    std::abort();
}

// what the mask hides is nothing, whatever it was
static void test_hide() {
    float x[VW], mask[VW], out[VW];
    for (int i = 0; i < VW; ++i) {
        x[i]    = i % 2 ? NAN : 1.0f + i;
        mask[i] = i % 2 ? -INFINITY : 0.0f;
    }
    simd_store(out, simd_hide(simd_load(x), simd_load(mask)));
    for (int i = 0; i < VW; ++i) {
        CHECK(i % 2 ? out[i] == -INFINITY : out[i] == x[i]);
    }
}

static void test_functions() {
    float x[VW], out[VW];
    float sum = 0.0f;
    for (int i = 0; i < VW; ++i) {
        x[i] = -3.0f + i;
        sum += x[i];
    }
    CHECK(simd_hmax(simd_load(x)) == x[VW - 1]);
    CHECK(std::fabs(simd_hsum(simd_load(x)) - sum) < 1e-5f);
    x[0] = -INFINITY;
    simd_store(out, simd_exp(simd_load(x)));
    CHECK(out[0] == 0.0f);
    for (int i = 1; i < VW; ++i) {
        CHECK(std::fabs(out[i] - std::exp(x[i])) < 1e-5f * std::exp(x[i]));
    }
}

static void test_transposition() {
    float x[64], y[64];
    for (int i = 0; i < 64; ++i) {
        x[i] = static_cast<float>(i);
    }
    transpose_8x8(x, 8, y, 8);
    for (int i = 0; i < 64; ++i) {
        CHECK(y[i] == x[i % 8 * 8 + i / 8]);
    }
}

// small whole numbers, of which every sum is exact
static void test_products() {
    const int          m = 13, n = 12 * VW, k = 17;
    std::vector<float> a(m * k), b(k * n), c(m * n);
    for (size_t i = 0; i < a.size(); ++i) {
        a[i] = static_cast<float>(i % 7) - 3.0f;
    }
    for (size_t i = 0; i < b.size(); ++i) {
        b[i] = static_cast<float>(i % 5) - 2.0f;
    }
    std::vector<float *>       rows_c;
    std::vector<const float *> rows_a;
    for (int i = 0; i < m; ++i) {
        rows_a.push_back(&a[i * k]);
        rows_c.push_back(&c[i * n]);
    }
    gemm<false>(rows_c.data(), rows_a.data(), b.data(), n, m, n, k);
    gemm<true>(rows_c.data(), rows_a.data(), b.data(), n, m, n, k); // once more
    for (int i = 0; i < m; ++i) {
        for (int j = 0; j < n; ++j) {
            float sum = 0.0f;
            for (int l = 0; l < k; ++l) {
                sum += a[i * k + l] * b[l * n + j];
            }
            CHECK(c[i * n + j] == 2.0f * sum);
        }
    }
}

int main() {
    test_hide();
    test_functions();
    test_transposition();
    test_products();
    std::printf("vectors of %d floats\n", VW);
    return 0;
}
