// Matrix products of a fan-out, in each type of weights: exact but for the rounding of their sums, also where these are the
// largest that there are; and a row's the same, bit for bit, however many rows there are and however many threads.

#include "check.h"
#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu-options.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
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
                                   int                          n_threads) {
    const Backend backend(ggml_backend_cpu_init(), ggml_backend_free);
    ggml_backend_cpu_set_n_threads(backend.get(), n_threads);
    ggml_backend_cpu_set_options(backend.get(), GGML_CPU_OPTION_FAN_OUT_MUL_MAT | GGML_CPU_OPTION_BATCH_INVARIANT);

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

// what the row of floats becomes before it is multiplied
static std::vector<double> rounded(const float * row, int64_t k) {
    std::vector<uint8_t> codes(ggml_row_size(GGML_TYPE_Q8_0, k));
    std::vector<float>   values(k);
    ggml_get_type_traits_cpu(GGML_TYPE_Q8_0)->from_float(row, codes.data(), k);
    ggml_get_type_traits(GGML_TYPE_Q8_0)->to_float(codes.data(), values.data(), k);
    return std::vector<double>(values.begin(), values.end());
}

static std::vector<double> multiply_plainly(const Shape &                shape,
                                            const std::vector<uint8_t> & weights,
                                            const std::vector<float> &   x) {
    std::vector<double> result;
    std::vector<float>  w(shape.k);
    for (int64_t i = 0; i < shape.n * shape.planes * shape.repeats; ++i) {
        const std::vector<double> row = rounded(x.data() + i * shape.k, shape.k);
        for (int64_t j = 0; j < shape.m; ++j) {
            const int64_t i_weights = i / shape.n / shape.repeats * shape.m + j;
            const size_t  offset    = i_weights * ggml_row_size(shape.type, shape.k);
            ggml_get_type_traits(shape.type)->to_float(weights.data() + offset, w.data(), shape.k);
            result.push_back(std::inner_product(w.begin(), w.end(), row.begin(), 0.0));
        }
    }
    return result;
}

static void test_codes(const Shape & shape, const std::vector<uint8_t> & codes, const std::vector<float> & x) {
    const std::vector<float> ours = multiply(shape, codes, x, 2);
    if (!ggml_cpu_has_avx2()) {
        return; // there is no kernel of ours
    }

    const std::vector<double> exact = multiply_plainly(shape, codes, x);
    double                    error = 0;
    double                    norm  = 0;
    for (size_t i = 0; i < exact.size(); ++i) {
        error += std::pow(ours[i] - exact[i], 2);
        norm += std::pow(exact[i], 2);
    }
    CHECK(error <= 1e-11 * norm); // sums in F32, whose epsilon squared is 1.4e-14

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

static void test_shape(const Shape & shape, std::mt19937 & rng) {
    const int64_t            n_rows = shape.m * shape.planes;
    const std::vector<float> w      = random_floats(rng, shape.k * n_rows);
    const std::vector<float> x      = random_floats(rng, shape.k * shape.n * shape.planes * shape.repeats);
    std::vector<uint8_t>     codes(ggml_row_size(shape.type, shape.k) * n_rows);
    ggml_quantize_chunk(shape.type, w.data(), codes.data(), 0, n_rows, shape.k, nullptr);
    test_codes(shape, codes, x);
}

// The largest sums that there are fit into the bits that they are added up in.
static void test_extremes(ggml_type type, std::mt19937 & rng) {
    const bool has_min =
        type == GGML_TYPE_Q4_1 || type == GGML_TYPE_Q5_1 || type == GGML_TYPE_Q4_K || type == GGML_TYPE_Q5_K;
    const size_t   where  = type == GGML_TYPE_Q6_K ? 208 : 0; // of its factor; a minimum follows it
    const Shape    shape  = { type, 512, 33, 9 };
    const uint16_t factor = ggml_fp32_to_fp16(1.0f / 1024);

    // codes of nothing but ones, of zeros, the lowest one of 8 bits, and any, by rows of the largest numbers
    for (const int fill : { 0xFF, 0x00, 0x80, 0x7F, -1 }) {
        std::vector<uint8_t> codes(ggml_row_size(type, shape.k) * shape.m);
        for (uint8_t & byte : codes) {
            byte = fill >= 0 ? fill : rng();
        }
        for (size_t block = 0; block < codes.size(); block += ggml_type_size(type)) {
            std::memcpy(&codes[block + where], &factor, sizeof(factor));
            if (has_min) {
                std::memcpy(&codes[block + where + sizeof(factor)], &factor, sizeof(factor));
            }
        }
        std::vector<float> x(shape.k * shape.n);
        for (size_t i = 0; i < x.size(); ++i) {
            const size_t row = i / shape.k;
            x[i]             = row == 0 ? 1.0f : row == 1 ? -1.0f : rng() % 2 == 0 ? 1.0f : -1.0f;
        }
        test_codes(shape, codes, x);
    }
}

int main() {
    std::mt19937 rng(1);
    for (const ggml_type type :
         { GGML_TYPE_Q4_0, GGML_TYPE_Q4_1, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1, GGML_TYPE_Q8_0, GGML_TYPE_Q4_K,
           GGML_TYPE_Q5_K, GGML_TYPE_Q6_K, GGML_TYPE_IQ4_NL, GGML_TYPE_IQ4_XS }) {
        // less than, as much as, and more than is unpacked at a time
        for (const int64_t k : { 32, 96, 256, 576, 768, 800, 1536 }) {
            if (k % ggml_blck_size(type) != 0) {
                continue;
            }
            for (const int64_t m : { 1, 7, 16, 17, 100 }) {
                for (const int64_t n : { 1, 2, 3, 4, 5, 8, 9, 23 }) {
                    test_shape({ type, k, m, n }, rng);
                }
            }
        }
        test_shape({ type, 256, 33, 5, 3 }, rng);
        test_shape({ type, 256, 33, 5, 2, 3 }, rng);
        test_extremes(type, rng);
    }
    return 0;
}
