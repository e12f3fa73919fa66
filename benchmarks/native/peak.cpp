// What this machine can do at most with some threads at a time: "GOPS GB/s", products of 8-bit integers that need nothing from
// memory, and bytes read from memory. Medians.
//
// usage: kvfork-peak THREADS

#include "peak.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>

static constexpr int    N_ROUNDS = 15;
static constexpr size_t N_BYTES  = 256u << 20; // of a thread: more than caches hold

// what `work` returns in all threads at a time, added up
static double together(int n_threads, const std::function<double(int)> & work) {
    std::vector<double>      rates(n_threads);
    std::vector<std::thread> threads;
    for (int i = 0; i < n_threads; ++i) {
        threads.emplace_back([&, i] { rates[i] = work(i); });
    }
    double sum = 0;
    for (int i = 0; i < n_threads; ++i) {
        threads[i].join();
        sum += rates[i];
    }
    return sum;
}

static double median_together(int n_threads, const std::function<double(int)> & work) {
    std::vector<double> rates;
    for (int round = 0; round < N_ROUNDS; ++round) {
        rates.push_back(together(n_threads, work));
    }
    return median(rates);
}

int main(int argc, char ** argv) {
    const int n_threads = argc == 2 ? std::atoi(argv[1]) : 0;
    if (n_threads < 1) {
        std::fprintf(stderr, "usage: %s THREADS\n", argv[0]);
        return 1;
    }
    const double operations = median_together(n_threads, [](int) { return integer_rate(); });

    std::vector<std::vector<uint64_t>> data(n_threads, std::vector<uint64_t>(N_BYTES / sizeof(uint64_t), 1));
    volatile uint64_t                  sink  = 0;
    const double                       bytes = median_together(n_threads, [&](int i) {
        const auto     start = std::chrono::steady_clock::now();
        const uint64_t sum   = read_all(data[i]);
        const auto     end   = std::chrono::steady_clock::now();
        if (sum == 42) {
            sink = sum; // it is never; the compiler cannot know
        }
        return 1e-9 * N_BYTES / std::chrono::duration<double>(end - start).count();
    });
    std::printf("%.1f %.2f\n", operations, bytes);
    return 0;
}
