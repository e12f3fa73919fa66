// llama.cpp's own test-backend-ops, with our options on: attention and matrix products on the CPU, those of repacked
// weights too, against a plain way to the same numbers; and a row of a product against the same row alone.
//
// usage: test_kernels OP PARAMETERS N
//   OP          the operation, as test-backend-ops names it
//   PARAMETERS  which of its cases: a regular expression that their parameters match
//   N           how many cases these are

#include "check.h"
#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml-cpu-options.h"
#include "ggml-cpu.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

// its main, which CMakeLists.txt renames
int test_backend_ops(int argc, char ** argv);

static int n_cases    = 0;
static int n_repacked = 0;
static int n_alone    = 0;

static constexpr uint32_t ALL_OPTIONS =
    GGML_CPU_OPTION_FAN_OUT_ATTN | GGML_CPU_OPTION_FAN_OUT_MUL_MAT | GGML_CPU_OPTION_BATCH_INVARIANT;

static ggml_context_ptr new_context() {
    return ggml_context_ptr(ggml_init({ 16 * ggml_tensor_overhead(), nullptr, /* no_alloc = */ true }));
}

static ggml_backend_buffer_ptr allocate(const ggml_context_ptr & ctx, ggml_backend_t backend) {
    return ggml_backend_buffer_ptr(ggml_backend_alloc_ctx_tensors(ctx.get(), backend));
}

static void compute(ggml_backend_t backend, ggml_tensor * node) {
    const ggml_context_ptr ctx(ggml_init({ ggml_graph_overhead(), nullptr, /* no_alloc = */ true }));
    ggml_cgraph *          graph = ggml_new_graph(ctx.get());
    ggml_build_forward_expand(graph, node);
    CHECK(ggml_backend_graph_compute(backend, graph) == GGML_STATUS_SUCCESS);
}

static bool is_product(const ggml_tensor * node) {
    return node->op == GGML_OP_MUL_MAT || node->op == GGML_OP_MUL_MAT_ID;
}

// The reference back end has a plain attention but no plain product. That of the same numbers as F32 is one.
static void compute_plainly(ggml_backend_t reference, ggml_tensor * node) {
    if (!is_product(node)) {
        compute(reference, node);
        return;
    }
    const ggml_context_ptr ctx     = new_context();
    ggml_tensor * const    weights = node->src[0];
    ggml_tensor * const    rows    = node->src[1];
    node->src[0]                   = ggml_cast(ctx.get(), weights, GGML_TYPE_F32);
    node->src[1]                   = ggml_cast(ctx.get(), rows, GGML_TYPE_F32);
    const auto buffer              = allocate(ctx, reference);
    compute(reference, node);
    node->src[0] = weights;
    node->src[1] = rows;
}

// A product with its weights in the order in which this CPU would have a model's.
class Repacked {
  public:
    Repacked(ggml_backend_t backend, const ggml_tensor * node) {
        const ggml_tensor * plain = node->src[0];
        if (!is_product(node) || plain->view_src || node->src[1]->ne[3] > 1) { // on the last, llama.cpp's abort
            return;
        }
        ggml_backend_dev_t device = ggml_backend_get_device(backend);
        const auto         buffer_types =
            reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(ggml_backend_reg_get_proc_address(
                ggml_backend_dev_backend_reg(device), "ggml_backend_dev_get_extra_bufts"));
        for (ggml_backend_buffer_type_t * type = buffer_types(device); *type && !product; ++type) {
            try_type(*type, backend, node);
        }
    }

    ggml_tensor * product = nullptr; // null: it has no other order for such weights

  private:
    void try_type(ggml_backend_buffer_type_t type, ggml_backend_t backend, const ggml_tensor * node) {
        result_.reset();
        weights_.reset();
        ctx_                  = new_context();
        ggml_tensor * weights = ggml_dup_tensor(ctx_.get(), node->src[0]);
        weights_.reset(ggml_backend_buft_alloc_buffer(type, ggml_backend_buft_get_alloc_size(type, weights)));
        void * data = ggml_backend_buffer_get_base(weights_.get());
        CHECK(ggml_backend_tensor_alloc(weights_.get(), weights, data) == GGML_STATUS_SUCCESS);
        ggml_tensor * out = node->op == GGML_OP_MUL_MAT
                                ? ggml_mul_mat(ctx_.get(), weights, node->src[1])
                                : ggml_mul_mat_id(ctx_.get(), weights, node->src[1], node->src[2]);
        if (weights->extra && ggml_backend_supports_op(backend, out)) {
            ggml_backend_tensor_set(weights, node->src[0]->data, 0, ggml_nbytes(weights));
            result_ = allocate(ctx_, backend);
            compute(backend, out);
            product = out;
        }
    }

    ggml_context_ptr        ctx_;
    ggml_backend_buffer_ptr weights_;
    ggml_backend_buffer_ptr result_;
};

// The first and the last row of a product are, bit for bit, what they are alone.
static void check_rows(ggml_backend_t backend, const ggml_tensor * node, bool is_repacked) {
    ggml_tensor * weights = node->src[0];
    ggml_tensor * rows    = node->src[1];
    // a row of rows that lie apart may go another way: it lies together
    if (node->op != GGML_OP_MUL_MAT || !ggml_is_matrix(rows) || !ggml_is_contiguous(rows) || rows->ne[1] == 1) {
        return;
    }
    if (is_repacked && weights->type == GGML_TYPE_Q2_K) {
        return; // has two orders still; see the patch
    }
    for (const int64_t i : { int64_t(0), rows->ne[1] - 1 }) {
        const ggml_context_ptr ctx    = new_context();
        ggml_tensor *          row    = ggml_view_1d(ctx.get(), rows, rows->ne[0], i * rows->nb[1]);
        ggml_tensor *          alone  = ggml_mul_mat(ctx.get(), weights, row);
        const auto             buffer = allocate(ctx, backend);
        compute(backend, alone);
        CHECK(memcmp(alone->data, static_cast<const char *>(node->data) + i * node->nb[1], ggml_nbytes(alone)) == 0);
        ++n_alone;
    }
}

// what test-backend-ops calls in place of ggml_backend_compare_graph_backend
extern "C" bool kvfork_compare_graph_backend(ggml_backend_t             backend,
                                             ggml_backend_t             reference,
                                             ggml_cgraph *              graph,
                                             ggml_backend_eval_callback callback,
                                             void *                     user_data,
                                             ggml_tensor const * const * /* nodes */,
                                             size_t /* n_nodes */) {
    for (ggml_backend_t each : { backend, reference }) {
        ggml_backend_cpu_set_n_threads(each, 2);
    }
    ggml_backend_cpu_set_options(backend, ALL_OPTIONS);
    const struct ggml_backend_graph_copy copy = ggml_backend_graph_copy(reference, graph);
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        ggml_tensor * node     = ggml_graph_node(graph, i);
        ggml_tensor * expected = ggml_graph_node(copy.graph, i);
        if (node->view_src) {
            continue;
        }
        compute(backend, node);
        check_rows(backend, node, false);
        const Repacked repacked(backend, node);
        if (repacked.product) {
            check_rows(backend, repacked.product, true);
        }
        compute_plainly(reference, expected);

        callback(i, node, expected, user_data);
        if (repacked.product) {
            callback(i, repacked.product, expected, user_data);
            ++n_repacked;
        }
    }
    ggml_backend_graph_copy_free(copy);
    ++n_cases;
    return true;
}

int main(int argc, char ** argv) {
    CHECK(argc == 4);
    ggml_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    std::string args[] = { "test-backend-ops", "test", "-b", "CPU", "-o", argv[1], "-p", argv[2] };
    char *      ops_argv[std::size(args)];
    for (size_t i = 0; i < std::size(args); ++i) {
        ops_argv[i] = args[i].data();
    }
    CHECK(test_backend_ops(std::size(args), ops_argv) == 0);
    std::fprintf(stderr, "%d cases, %d with repacked weights, %d rows alone\n", n_cases, n_repacked, n_alone);
    CHECK(n_cases == std::atoi(argv[3])); // none was skipped
    return 0;
}
