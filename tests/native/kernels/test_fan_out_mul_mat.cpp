// Matrix products of a fan-out: as llama.cpp's own to the last bits; and a row's the same, bit for bit, however many rows
// there are and however many threads.

#include "check.h"
#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu-options.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

struct Shape {
    ggml_type type;    // of the weights
    int64_t   k, m, n; // [k, m] weights by [k, n]
    int64_t   planes  = 1;
    int64_t   repeats = 1; // planes of src1 for each of the weights
};

using Context = std::unique_ptr<ggml_context, decltype(&ggml_free)>;
using Buffer  = std::unique_ptr<ggml_backend_buffer, decltype(&ggml_backend_buffer_free)>;
using Backend = std::unique_ptr<ggml_backend, decltype(&ggml_backend_free)>;

static std::vector<float> multiply(const Shape &                shape,
                                   const std::vector<uint8_t> & weights,
                                   const std::vector<float> &   x,
                                   int                          n_threads,
                                   uint32_t                     options = GGML_CPU_OPTION_FAN_OUT_MUL_MAT) {
    const Backend backend(ggml_backend_cpu_init(), ggml_backend_free);
    ggml_backend_cpu_set_n_threads(backend.get(), n_threads);
    ggml_backend_cpu_set_options(backend.get(), options);

    const Context ctx(ggml_init({ 8 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true }), ggml_free);
    ggml_tensor * w     = ggml_new_tensor_3d(ctx.get(), shape.type, shape.k, shape.m, shape.planes);
    ggml_tensor * src1  = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, shape.k, shape.n, shape.planes * shape.repeats);
    ggml_tensor * out   = ggml_mul_mat(ctx.get(), w, src1);
    ggml_cgraph * graph = ggml_new_graph(ctx.get());
    ggml_build_forward_expand(graph, out);

    const Buffer buffer(ggml_backend_alloc_ctx_tensors(ctx.get(), backend.get()), ggml_backend_buffer_free);
    ggml_backend_tensor_set(w, weights.data(), 0, weights.size());
    ggml_backend_tensor_set(src1, x.data(), 0, x.size() * sizeof(float));
    CHECK(ggml_backend_graph_compute(backend.get(), graph) == GGML_STATUS_SUCCESS);

    std::vector<float> result(ggml_nelements(out));
    ggml_backend_tensor_get(out, result.data(), 0, result.size() * sizeof(float));
    return result;
}

static std::vector<float> random_floats(std::mt19937 & rng, size_t n) {
    std::normal_distribution<float> normal;
    std::vector<float>              values(n);
    for (float & value : values) {
        value = normal(rng);
    }
    return values;
}

static void test_shape(const Shape & shape, std::mt19937 & rng) {
    const int64_t            n_rows = shape.m * shape.planes;
    const std::vector<float> w      = random_floats(rng, shape.k * n_rows);
    const std::vector<float> x      = random_floats(rng, shape.k * shape.n * shape.planes * shape.repeats);
    std::vector<uint8_t>     codes(ggml_row_size(shape.type, shape.k) * n_rows);
    ggml_quantize_chunk(shape.type, w.data(), codes.data(), 0, n_rows, shape.k, nullptr);

    const std::vector<float> stock = multiply(shape, codes, x, 1, /* options = */ 0);
    const std::vector<float> ours  = multiply(shape, codes, x, 2);

    double error = 0;
    double norm  = 0;
    for (size_t i = 0; i < stock.size(); ++i) {
        error += std::pow(double(ours[i]) - stock[i], 2);
        norm += std::pow(double(stock[i]), 2);
    }
    CHECK(error <= 1e-11 * norm); // both add up the same products in F32, whose epsilon squared is 1.4e-14

    // elsewhere there is no kernel of ours for it
    if (shape.type == GGML_TYPE_Q4_1 ? !ggml_cpu_has_avx2() : !ggml_cpu_has_avx512_vnni()) {
        return;
    }
    for (int64_t i = 0; i < shape.n * shape.planes * shape.repeats; ++i) { // each row alone
        const Shape                alone   = { shape.type, shape.k, shape.m, 1 };
        const size_t               i_plane = i / shape.n / shape.repeats;
        const size_t               size    = codes.size() / shape.planes;
        const std::vector<uint8_t> plane(codes.begin() + i_plane * size, codes.begin() + (i_plane + 1) * size);
        const std::vector<float>   row(x.begin() + i * shape.k, x.begin() + (i + 1) * shape.k);
        const std::vector<float>   result = multiply(alone, plane, row, 1);
        CHECK(std::memcmp(result.data(), ours.data() + i * shape.m, shape.m * sizeof(float)) == 0);
    }
}

int main() {
    std::mt19937 rng(1);
    for (const ggml_type type : { GGML_TYPE_Q4_1, GGML_TYPE_Q8_0 }) {
        // less than, as much as, and more than is unpacked at a time
        for (const int64_t k : { 32, 96, 576, 768, 800, 1536 }) {
            for (const int64_t m : { 1, 7, 16, 17, 100 }) {
                for (const int64_t n : { 1, 2, 3, 4, 5, 8, 9, 23 }) {
                    test_shape({ type, k, m, n }, rng);
                }
            }
        }
        test_shape({ type, 64, 33, 5, 3 }, rng);
        test_shape({ type, 64, 33, 5, 2, 3 }, rng);
    }
    return 0;
}
