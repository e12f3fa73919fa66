#include "context/context_memory.h"

#include "../src/llama-ext.h"
#include "ggml-backend.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>

namespace kvf {

namespace {

constexpr uint32_t N_SMALL = 1024; // cells of the two contexts that are measured
constexpr uint32_t N_LARGE = 2048;
constexpr uint32_t N_ROUND = 256;  // llama.cpp pads n_ctx to a multiple of this
constexpr double   N_SPARE = 0.25; // of a device's memory, for everything else

struct Need {
    double model   = 0.0; // bytes
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
        needs[device].context += static_cast<double>(memory.context + memory.compute);
    }
    return needs;
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
        const auto   before   = small->find(device);
        const double less     = before == small->end() ? 0.0 : before->second.context;
        const double per_cell = (need.context - less) / (N_LARGE - N_SMALL);
        const double fixed    = need.context - per_cell * N_LARGE;
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
           (n_fits >= N_ROUND ? "give n_ctx = " + std::to_string(static_cast<uint32_t>(n_fits)) + " or less"
                              : "a smaller model would leave room for it");
}

} // namespace kvf
