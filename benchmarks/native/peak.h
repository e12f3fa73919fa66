// What this processor can do at most: products of 8-bit integers that need nothing from memory, and bytes read from memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <vector>

#if defined(__AVX2__)
#    include <immintrin.h>
#endif

inline double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

inline double thread_cpu_time() {
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return time.tv_sec + 1e-9 * time.tv_nsec;
}

// 1e9 operations a second of CPU time of this thread, by the best products of 8-bit integers for which ggml is compiled; a
// product and a sum are two. 0: there is no loop for this processor
inline double integer_rate() {
#if defined(__AVX2__)
#    if defined(__AVX512VNNI__) && defined(__AVX512BW__)
    using Vector        = __m512i;
    const auto multiply = [](Vector sum, Vector a, Vector b) { return _mm512_dpbusd_epi32(sum, a, b); };
#    elif defined(__AVXVNNI__)
    using Vector        = __m256i;
    const auto multiply = [](Vector sum, Vector a, Vector b) { return _mm256_dpbusd_avx_epi32(sum, a, b); };
#    else
    using Vector        = __m256i;
    const auto multiply = [](Vector sum, Vector a, Vector b) {
        return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
    };
#    endif
    constexpr long n      = 500000;
    Vector         a      = {};
    Vector         b      = {};
    Vector         sum[8] = {};
    asm volatile("" : "+x"(a), "+x"(b)); // as if they could be anything
    const double start = thread_cpu_time();
    for (long i = 0; i < n; ++i) {
#    pragma GCC unroll 8
        for (int k = 0; k < 8; ++k) {
            sum[k] = multiply(sum[k], a, b);
            asm volatile("" : "+x"(sum[k]), "+x"(a)); // no product is left out for being another one's
        }
    }
    return 2e-9 * n * 8 * sizeof(Vector) / (thread_cpu_time() - start);
#else
    return 0;
#endif
}

// reads all of it, 8 bytes at a time as far as the language goes; the compiler takes vectors
inline uint64_t read_all(const std::vector<uint64_t> & data) {
    uint64_t sum[8] = {};
    for (size_t i = 0; i + 8 <= data.size(); i += 8) {
        for (size_t k = 0; k < 8; ++k) {
            sum[k] ^= data[i + k];
        }
    }
    for (size_t k = 1; k < 8; ++k) {
        sum[0] ^= sum[k];
    }
    return sum[0];
}
