// Matrix products by each type of weights, on one thread: microseconds a row of a batch takes, by llama.cpp's kernels and by
// ours, and what share of this processor's own peak in 8-bit integers that is. The two take turns, and it is the thread's
// CPU time that counts, so another program does no more harm than to take memory and caches. Medians.
//
// usage: kvfork-products [COLUMNS ROWS ROUNDS], of the weights; 1536 1536 7 if left out

#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml-cpu-options.h"
#include "ggml-cpu.h"
#include "ggml.h"
#include "peak.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

// the median of some integer_rate()s
static double peak() {
    std::vector<double> rates;
    for (int round = 0; round < 15; ++round) {
        rates.push_back(integer_rate());
    }
    return median(rates);
}

// A product, ready to be computed; its weights in this order.
class Product {
  public:
    Product(ggml_backend_t             backend,
            ggml_backend_buffer_type_t order,
            ggml_tensor                weights,
            int64_t                    n_rows,
            const void *               codes,
            const std::vector<float> & rows)
        : backend_(backend),
          ctx_(ggml_init({ 4 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, /* no_alloc = */ true })) {
        ggml_tensor * w = ggml_new_tensor_2d(ctx_.get(), weights.type, weights.ne[0], weights.ne[1]);
        ggml_tensor * x = ggml_new_tensor_2d(ctx_.get(), GGML_TYPE_F32, weights.ne[0], n_rows);
        weights_.reset(ggml_backend_buft_alloc_buffer(order, ggml_backend_buft_get_alloc_size(order, w)));
        ggml_backend_tensor_alloc(weights_.get(), w, ggml_backend_buffer_get_base(weights_.get()));
        ggml_backend_tensor_set(w, codes, 0, ggml_nbytes(w));
        graph_ = ggml_new_graph(ctx_.get());
        ggml_build_forward_expand(graph_, ggml_mul_mat(ctx_.get(), w, x));
        rest_.reset(ggml_backend_alloc_ctx_tensors(ctx_.get(), backend));
        ggml_backend_tensor_set(x, rows.data(), 0, ggml_nbytes(x));
    }

    // seconds that it takes, the mean of as many as fit into 20 ms; the first one does not count
    double measure(bool ours) {
        ggml_backend_cpu_set_options(backend_, ours ? GGML_CPU_OPTION_FAN_OUT_MUL_MAT : 0);
        ggml_backend_graph_compute(backend_, graph_);
        const double start = thread_cpu_time();
        double       end   = start;
        int          n     = 0;
        for (; n == 0 || end - start < 0.02; ++n) {
            ggml_backend_graph_compute(backend_, graph_);
            end = thread_cpu_time();
        }
        return (end - start) / n;
    }

  private:
    ggml_backend_t          backend_;
    ggml_context_ptr        ctx_;
    ggml_backend_buffer_ptr weights_;
    ggml_backend_buffer_ptr rest_;
    ggml_cgraph *           graph_ = nullptr;
};

// the order in which llama.cpp would have a model's weights here, if not that of the file; not AMX's, whose products are not
// compared here
static ggml_backend_buffer_type_t repacked(ggml_backend_t backend, ggml_tensor weights) {
    ggml_backend_dev_t device = ggml_backend_get_device(backend);
    const auto         orders = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
        ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), "ggml_backend_dev_get_extra_bufts"));
    for (ggml_backend_buffer_type_t * order = orders(device); *order; ++order) {
        if (std::strcmp(ggml_backend_buft_name(*order), "CPU_REPACK") != 0) {
            continue;
        }
        const ggml_context_ptr        ctx(ggml_init({ 4 * ggml_tensor_overhead(), nullptr, /* no_alloc = */ true }));
        const ggml_backend_buffer_ptr nothing(ggml_backend_buft_alloc_buffer(*order, 0));
        ggml_tensor *                 w = ggml_new_tensor_2d(ctx.get(), weights.type, weights.ne[0], weights.ne[1]);
        ggml_tensor *                 x = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, weights.ne[0], 1);
        w->buffer                       = nothing.get();
        ggml_tensor * product           = ggml_mul_mat(ctx.get(), w, x);
        if (ggml_backend_supports_op(backend, product)) {
            return *order;
        }
    }
    return ggml_backend_cpu_buffer_type();
}

int main(int argc, char ** argv) {
    const int64_t n_columns = argc > 1 ? std::atoi(argv[1]) : 1536;
    const int64_t n_weights = argc > 2 ? std::atoi(argv[2]) : 1536;
    const int     n_rounds  = argc > 3 ? std::atoi(argv[3]) : 7;
    if (n_columns < 256 || n_columns % 256 != 0 || n_weights < 1 || n_rounds < 1) {
        std::fprintf(stderr, "usage: %s [COLUMNS ROWS ROUNDS]: COLUMNS a multiple of 256, the others at least 1\n",
                     argv[0]);
        return 1;
    }
    ggml_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    const ggml_backend_ptr backend(ggml_backend_cpu_init());
    ggml_backend_cpu_set_n_threads(backend.get(), 1);

    std::mt19937                    rng(1);
    std::normal_distribution<float> normal;
    std::vector<float>              weights(n_columns * n_weights);
    std::vector<float>              rows(n_columns * 256);
    for (std::vector<float> * values : { &weights, &rows }) {
        std::generate(values->begin(), values->end(), [&] { return normal(rng); });
    }

    const double limit = peak();
    std::printf("%d x %d, one thread; the peak is %.0f GOPS\n\n", int(n_columns), int(n_weights), limit);
    std::printf(
        "| weights | rows | llama.cpp, us a row | ours | times as fast | ours of the peak "
        "|\n|---|---:|---:|---:|---:|---:|\n");
    for (const ggml_type type :
         { GGML_TYPE_Q4_K, GGML_TYPE_Q5_K, GGML_TYPE_Q6_K, GGML_TYPE_Q8_0, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1,
           GGML_TYPE_Q4_0, GGML_TYPE_Q4_1, GGML_TYPE_IQ4_NL, GGML_TYPE_IQ4_XS }) {
        ggml_tensor shape = {};
        shape.type        = type;
        shape.ne[0]       = n_columns;
        shape.ne[1]       = n_weights;
        std::vector<uint8_t> codes(ggml_row_size(type, n_columns) * n_weights);
        ggml_quantize_chunk(type, weights.data(), codes.data(), 0, n_weights, n_columns, nullptr);
        for (const int64_t n_rows : { 1, 8, 32, 256 }) {
            Product             stock(backend.get(), repacked(backend.get(), shape), shape, n_rows, codes.data(), rows);
            Product             plain(backend.get(), ggml_backend_cpu_buffer_type(), shape, n_rows, codes.data(), rows);
            std::vector<double> theirs, ours, ratios;
            for (int round = 0; round < n_rounds; ++round) {
                theirs.push_back(stock.measure(false));
                ours.push_back(plain.measure(true));
                ratios.push_back(theirs.back() / ours.back());
            }
            const double rate = 2e-9 * n_columns * n_weights * n_rows / median(ours);
            std::printf("| %s | %d | %.1f | %.1f | %.2f | %.0f %% |\n", ggml_type_name(type), int(n_rows),
                        1e6 * median(theirs) / n_rows, 1e6 * median(ours) / n_rows, median(ratios),
                        limit > 0 ? 100 * rate / limit : 0);
            std::fflush(stdout);
        }
    }
    return 0;
}
