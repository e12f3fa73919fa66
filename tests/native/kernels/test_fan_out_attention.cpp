// Attention of a fan-out: cells that a row does not see may hold anything, and change no bit of the row; a row that sees
// what is no number is none itself; and the tiles of a batch are found in linear time.

#include "check.h"
#include "fan-out-tiles.h"
#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml-cpu-options.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <set>
#include <vector>

static constexpr int64_t N_KV       = 330; // the last tile is not whole
static constexpr int64_t N_HEAD_KV  = 2;
static constexpr int64_t N_GQA      = 3;
static constexpr int     N_BRANCHES = 3;
static constexpr int     POISONED   = 1; // the branch whose cells are

struct Shape {
    ggml_type type;
    int64_t   n_tok;
    int64_t   head_k    = 64;
    int64_t   head_v    = 64;
    float     max_bias  = 0.0f;
    float     softcap   = 0.0f;
    bool      sinks     = false;
    int64_t   n_streams = 1;
};

struct Poison {
    float value;
    bool  in_k;
    bool  in_v;
    bool  everywhere; // in whole rows and in free cells too; or in the first number, or block, of the branch's
};

// Branches 0 to 2, -1 for all of them, -2 for none.
static int owner(int64_t cell) {
    if (cell < 100) {
        return cell == 5 ? -2 : -1;
    }
    if (cell < 164) {
        return cell % N_BRANCHES; // in turns, within a tile
    }
    if (cell < 192) {
        return -2;
    }
    if (cell < 256) {
        return POISONED; // a tile of its own
    }
    return cell < 276 ? 0 : cell < 296 ? 2 : cell < 320 ? -2 : 2;
}

static bool sees(int64_t token, int64_t cell) {
    const bool is_own = owner(cell) == token % N_BRANCHES;
    // later tokens see more of their branch; some see no prefix, so that the tile of their own is their first
    return is_own ? cell < 110 + 25 * (token / N_BRANCHES % 10) : owner(cell) == -1 && token % 7 != 4;
}

static bool is_poisoned(int64_t cell, const Poison & poison) {
    return owner(cell) == POISONED || (owner(cell) == -2 && poison.everywhere);
}

static bool sees_poison(int64_t token, const Poison & poison) {
    for (int64_t cell = 0; cell < N_KV; ++cell) {
        if (sees(token, cell) && is_poisoned(cell, poison)) {
            return true;
        }
    }
    return false;
}

static void set_number(ggml_type type, void * row, float value) {
    if (type == GGML_TYPE_F32) {
        memcpy(row, &value, sizeof(value));
    } else { // F16; of Q8_0, the scale of a block
        const ggml_fp16_t half = ggml_fp32_to_fp16(value);
        memcpy(row, &half, sizeof(half));
    }
}

// K or V, [head size, cells, heads, streams]
static std::vector<uint8_t> codes(const Shape & shape, int64_t head_size, const Poison * poison, std::mt19937 & rng) {
    const int64_t                   n_rows = N_KV * N_HEAD_KV * shape.n_streams;
    std::normal_distribution<float> normal;
    std::vector<float>              x(head_size * n_rows);
    std::generate(x.begin(), x.end(), [&] { return normal(rng); });

    const size_t         row_size = ggml_row_size(shape.type, head_size);
    std::vector<uint8_t> result(row_size * n_rows);
    ggml_quantize_chunk(shape.type, x.data(), result.data(), 0, n_rows, head_size, nullptr);
    for (int64_t i = 0; poison && i < n_rows; ++i) {
        if (is_poisoned(i % N_KV, *poison)) {
            const size_t end = poison->everywhere ? row_size : ggml_type_size(shape.type);
            for (size_t j = 0; j < end; j += ggml_type_size(shape.type)) {
                set_number(shape.type, result.data() + i * row_size + j, poison->value);
            }
        }
    }
    return result;
}

static void set(ggml_tensor * tensor, const void * data) {
    ggml_backend_tensor_set(tensor, data, 0, ggml_nbytes(tensor));
}

// [streams][tokens][heads][head_v]
static std::vector<float> attend(const Shape & shape, const Poison * poison, int n_threads) {
    const ggml_backend_ptr backend(ggml_backend_cpu_init());
    ggml_backend_cpu_set_n_threads(backend.get(), n_threads);
    ggml_backend_cpu_set_options(backend.get(), GGML_CPU_OPTION_FAN_OUT_ATTN);
    const ggml_context_ptr ctx(ggml_init({ 8 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true }));

    const int64_t n_head = N_HEAD_KV * N_GQA;
    const int64_t ns     = shape.n_streams;
    ggml_tensor * q      = ggml_new_tensor_4d(ctx.get(), GGML_TYPE_F32, shape.head_k, shape.n_tok, n_head, ns);
    ggml_tensor * k      = ggml_new_tensor_4d(ctx.get(), shape.type, shape.head_k, N_KV, N_HEAD_KV, ns);
    ggml_tensor * v      = ggml_new_tensor_4d(ctx.get(), shape.type, shape.head_v, N_KV, N_HEAD_KV, ns);
    ggml_tensor * mask   = ggml_new_tensor_4d(ctx.get(), GGML_TYPE_F16, N_KV, shape.n_tok, 1, ns);
    ggml_tensor * sinks  = shape.sinks ? ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, n_head) : nullptr;
    const float   scale  = 1.0f / std::sqrt(float(shape.head_k));
    ggml_tensor * out    = ggml_flash_attn_ext(ctx.get(), q, k, v, mask, scale, shape.max_bias, shape.softcap);
    if (sinks) {
        ggml_flash_attn_ext_add_sinks(out, sinks);
    }
    ggml_cgraph * graph = ggml_new_graph(ctx.get());
    ggml_build_forward_expand(graph, out);

    const ggml_backend_buffer_ptr   buffer(ggml_backend_alloc_ctx_tensors(ctx.get(), backend.get()));
    std::mt19937                    rng(1);
    std::normal_distribution<float> normal;
    std::vector<float>              numbers(ggml_nelements(q));
    std::generate(numbers.begin(), numbers.end(), [&] { return normal(rng); });
    set(q, numbers.data());
    if (sinks) {
        set(sinks, numbers.data());
    }
    set(k, codes(shape, shape.head_k, poison && poison->in_k ? poison : nullptr, rng).data());
    set(v, codes(shape, shape.head_v, poison && poison->in_v ? poison : nullptr, rng).data());
    std::vector<ggml_fp16_t> visible(ggml_nelements(mask));
    for (size_t i = 0; i < visible.size(); ++i) {
        const int64_t cell  = i % N_KV;
        const int64_t token = i / N_KV % shape.n_tok;
        const float   far   = shape.max_bias > 0.0f ? -float(N_KV - cell) : 0.0f;
        visible[i]          = ggml_fp32_to_fp16(sees(token, cell) ? far : -INFINITY);
    }
    set(mask, visible.data());
    CHECK(ggml_backend_graph_compute(backend.get(), graph) == GGML_STATUS_SUCCESS);

    std::vector<float> result(ggml_nelements(out));
    ggml_backend_tensor_get(out, result.data(), 0, result.size() * sizeof(float));
    return result;
}

static bool is_finite(const float * x, int64_t n) {
    return std::all_of(x, x + n, [](float value) { return std::isfinite(value); });
}

static void test_poison(const Shape & shape) {
    const std::vector<float> clean = attend(shape, nullptr, 1);
    CHECK(is_finite(clean.data(), clean.size()));

    const float inf = std::numeric_limits<float>::infinity();
    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (const float value : { inf, -inf, nan }) {
        for (const Poison & poison : { Poison{ value, true, false, false }, Poison{ value, false, true, false },
                                       Poison{ value, true, true, true } }) {
            const std::vector<float> result       = attend(shape, &poison, 2);
            int                      n_neighbours = 0;
            int                      n_poisoned   = 0;
            for (size_t i = 0; i < result.size(); i += shape.head_v) {
                const int64_t token = i / shape.head_v / (N_HEAD_KV * N_GQA) % shape.n_tok;
                if (!sees_poison(token, poison)) {
                    CHECK(memcmp(&result[i], &clean[i], shape.head_v * sizeof(float)) == 0);
                    ++n_neighbours;
                } else if (std::isnan(value) || poison.in_v || (token % 7 == 4 && !shape.softcap && !shape.sinks)) {
                    // otherwise a score of -INFINITY is a weight of 0, beside a score that is more
                    CHECK(!is_finite(&result[i], shape.head_v));
                    ++n_poisoned;
                }
            }
            CHECK(n_neighbours > 0);
            CHECK(n_poisoned > 0 || (!std::isnan(value) && !poison.in_v));
        }
    }
}

// One token that sees all of a long cache, and others that see a few tiles of it somewhere.
static void test_tiles(int64_t n_kv) {
    static constexpr int64_t N_TOK   = 8;
    const int64_t            n_tiles = (n_kv + T - 1) / T;
    const int64_t            n_group = (n_tiles + GROUP - 1) / GROUP;

    std::vector<ggml_fp16_t> mask(N_TOK * n_kv, MASK_HIDDEN);
    for (int64_t token = 0; token < N_TOK; ++token) {
        for (int64_t t = 0; t < n_tiles; ++t) {
            if (token == 0 || t == token || t == 300 * token || t == 2 || (token == 3 && t % 100 == 7)) {
                mask[token * n_kv + t * T + token] = 0;
            }
        }
    }
    std::vector<tile_class> classes(N_TOK * n_tiles);
    std::vector<int32_t>    starts(N_TOK * (n_group + 1));
    for (int64_t token = 0; token < N_TOK; ++token) {
        classify(&mask[token * n_kv], n_kv, &classes[token * n_tiles], &starts[token * (n_group + 1)]);
    }

    int64_t    n_asked = 0;
    int64_t    n_seen  = 0;
    int64_t    n_found = 0;
    const auto tile    = [&](int64_t token, int64_t t) {
        ++n_asked;
        return classes[token * n_tiles + t];
    };
    const auto group = [&](int64_t token, int64_t g) { return int64_t(starts[token * (n_group + 1) + g]); };

    int64_t counts[N_TOK] = {}; // tiles of each token in the groups before
    for (int64_t g = 0; g < n_group; ++g) {
        std::set<int32_t> expected;
        for (int64_t token = 0; token < N_TOK; ++token) {
            int64_t n = 0; // tiles of the token so far
            for (int64_t t = 0; t < n_tiles && n < (g + 1) * GROUP; ++t) {
                if (classes[token * n_tiles + t] != TILE_NONE && n++ >= g * GROUP) {
                    expected.insert(int32_t(t));
                }
            }
            n_seen += n - counts[token];
            counts[token] = n;
        }
        int32_t       tiles[N_TOK * GROUP];
        const int64_t n = group_tiles(N_TOK, n_tiles, g, tile, group, tiles);
        CHECK(std::vector<int32_t>(tiles, tiles + n) == std::vector<int32_t>(expected.begin(), expected.end()));
        n_found += n;
    }
    CHECK(n_seen == std::count_if(classes.begin(), classes.end(), [](tile_class c) { return c != TILE_NONE; }));
    CHECK(n_found <= n_seen);
    CHECK(n_asked <= N_TOK * n_tiles); // each tile of a token once, not once for each group
}

int main() {
    for (const int64_t n_kv : { 2048 * T, 2047 * T + 10, 10 * T }) {
        test_tiles(n_kv);
    }
    for (const ggml_type type : { GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_F32 }) {
        // one token for each branch; more rows than a block has; a prefill, in blocks of rows
        for (const int64_t n_tok : { 3, 40, 100 }) {
            test_poison({ type, n_tok });
        }
    }
    test_poison({ GGML_TYPE_F16, 9, 72, 40 });
    test_poison({ GGML_TYPE_F16, 70, 40, 72 });
    test_poison({ GGML_TYPE_F16, 9, 64, 64, 8.0f });
    test_poison({ GGML_TYPE_F16, 9, 64, 64, 0.0f, 5.0f });
    test_poison({ GGML_TYPE_F16, 9, 64, 64, 0.0f, 0.0f, true });
    test_poison({ GGML_TYPE_F16, 9, 64, 64, 0.0f, 0.0f, false, 2 });
    return 0;
}
