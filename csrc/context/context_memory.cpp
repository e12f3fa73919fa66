#include "context/context_memory.h"

#include "../src/llama-ext.h"
#include "fit.h"
#include "ggml-backend.h"
#include "kvf_error.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <vector>

namespace kvf {

namespace {

constexpr uint32_t N_SMALL = 1024; // cells of the two contexts that are measured
constexpr uint32_t N_LARGE = 2048;
constexpr uint32_t N_LEAST = 4096; // cells that are worth more than layers on a device, as llama.cpp's own fit has it
constexpr uint32_t N_ROUND = 256;  // llama.cpp pads n_ctx to a multiple of this
constexpr double   N_SPARE = 0.25; // of a device's memory, for everything else
constexpr double   MARGIN  = 1 << 30; // bytes of a device that are left free, as llama.cpp's own fit does

struct Need {
    double model   = 0.0; // bytes
    double mapped  = 0.0; // of these, those that come from the file when they are read, and may not be in memory yet
    double context = 0.0;
};

using Needs = std::map<ggml_backend_dev_t, Need>;

std::optional<Needs> measure(const llama_model * model, llama_context_params params, uint32_t n_ctx) {
    params.n_ctx = n_ctx;
    const std::unique_ptr<llama_context, void (*)(llama_context *)> ctx(
        llama_init_from_model(const_cast<llama_model *>(model), params), llama_free);
    if (!ctx) {
        return std::nullopt;
    }
    Needs needs;
    for (const auto & [type, memory] : llama_get_memory_breakdown(ctx.get())) {
        ggml_backend_dev_t device = ggml_backend_buft_is_host(type) ? nullptr : ggml_backend_buft_get_device(type);
        if (!device) {
            device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        }
        needs[device].model += static_cast<double>(memory.model);
        if (std::strstr(ggml_backend_buft_name(type), "_Mapped")) {
            needs[device].mapped += static_cast<double>(memory.model);
        }
        needs[device].context += static_cast<double>(memory.context + memory.compute);
    }
    return needs;
}

// what a context takes on a device, by its number of cells
struct Line {
    double fixed    = 0.0; // bytes
    double per_cell = 0.0;
};

Line line(const Needs & small, const Needs & large, ggml_backend_dev_t device) {
    const auto   before   = small.find(device);
    const double less     = before == small.end() ? 0.0 : before->second.context;
    const double context  = large.at(device).context;
    const double per_cell = (context - less) / (N_LARGE - N_SMALL);
    return { context - per_cell * N_LARGE, per_cell };
}

std::string gibibytes(double bytes) {
    char text[32];
    std::snprintf(text, sizeof text, "%.1f GiB", bytes / (1 << 30));
    return text;
}

} // namespace

std::string describe_need(const llama_model * model, llama_context_params params) {
    const std::optional<Needs> small = measure(model, params, N_SMALL);
    const std::optional<Needs> large = measure(model, params, N_LARGE);
    if (!small || !large) {
        return "a small one fails too, so it is not its size";
    }

    double asked = 0.0;
    double fits  = params.n_ctx / 2; // as the whole did not
    for (const auto & [device, need] : *large) {
        const auto [fixed, per_cell] = line(*small, *large, device);
        asked += fixed + per_cell * params.n_ctx;
        size_t free  = 0;
        size_t total = 0;
        ggml_backend_dev_memory(device, &free, &total);
        if (total > 0 && per_cell > 0) {
            const double usable = (1.0 - N_SPARE) * static_cast<double>(total) - need.model - fixed;
            fits                = std::min(fits, usable / per_cell);
        }
    }
    const double n_fits = std::floor(fits / N_ROUND) * N_ROUND;
    return "n_ctx = " + std::to_string(params.n_ctx) + " asks for about " + gibibytes(asked) +
           " beside the model's weights; " +
           (n_fits >= N_ROUND ? "pass n_ctx = " + std::to_string(static_cast<uint32_t>(n_fits)) + " or less"
                              : "a smaller model would leave room for it");
}

uint32_t fitting_n_ctx(const llama_model * model, llama_context_params params, uint64_t host_bytes) {
    params.kv_unified                      = true; // as the engine has them
    params.n_outputs_max                   = params.n_seq_max;
    const auto                 n_ctx_train = static_cast<uint32_t>(llama_model_n_ctx_train(model));
    const std::optional<Needs> small       = measure(model, params, N_SMALL);
    const std::optional<Needs> large       = measure(model, params, N_LARGE);
    if (!small || !large) {
        throw Error(KVF_ERROR_INTERNAL, "no context can be created, not even a small one");
    }
    double fits = n_ctx_train;
    for (const auto & [device, need] : *large) {
        const auto [fixed, per_cell] = line(*small, *large, device);
        double free                  = static_cast<double>(host_bytes) - need.mapped;
        if (ggml_backend_dev_type(device) != GGML_BACKEND_DEVICE_TYPE_CPU) {
            size_t free_bytes  = 0;
            size_t total_bytes = 0;
            ggml_backend_dev_memory(device, &free_bytes, &total_bytes);
            if (total_bytes == 0) { // it does not say
                continue;
            }
            free = static_cast<double>(free_bytes) - MARGIN;
        }
        if (per_cell > 0.0) {
            fits = std::min(fits, (free - fixed) / per_cell);
        }
    }
    const double n_fits = std::floor(fits / N_ROUND) * N_ROUND;
    return std::min(n_ctx_train, static_cast<uint32_t>(std::max<double>(n_fits, N_SMALL)));
}

void fit_layers(const char * path, llama_model_params & model_params, llama_context_params context_params) {
    context_params.kv_unified    = true;
    context_params.n_outputs_max = context_params.n_seq_max;
    std::vector<size_t> margins(llama_max_devices(), static_cast<size_t>(MARGIN));
    // its parameters for these two are pointers that can be written to
    auto * tensor_split       = const_cast<float *>(model_params.tensor_split);
    auto * overrides          = const_cast<llama_model_tensor_buft_override *>(model_params.tensor_buft_overrides);
    model_params.tensor_split = nullptr;
    model_params.tensor_buft_overrides = nullptr;
    const common_params_fit_status status =
        common_fit_params(path, &model_params, &context_params, tensor_split, overrides, margins.data(), N_LEAST,
                          nullptr, GGML_LOG_LEVEL_ERROR);
    if (status != COMMON_PARAMS_FIT_STATUS_SUCCESS) {
        model_params.n_gpu_layers          = 0;
        model_params.tensor_split          = nullptr;
        model_params.tensor_buft_overrides = nullptr;
    }
}

} // namespace kvf
