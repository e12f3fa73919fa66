#pragma once

#include "llama.h"

#include <cstdint>
#include <string>

namespace kvf {

// The largest n_ctx, up to the training context, for which a context fits beside the weights, which are loaded, into the
// memory that is free on each device, of which MARGIN is left free, and into so many bytes on the host. At least a small
// one. Throws Error if not even that can be made.
uint32_t fitting_n_ctx(const llama_model * model, llama_context_params params, uint64_t host_bytes);

// Sets n_gpu_layers, which must be as llama_model_default_params() has it, and where that does not do tensor_split and
// tensor_buft_overrides, so that a model and its context fit into the devices' free memory: llama.cpp's own fit. The last
// two are written to the buffers that the parameters point to. No layers go to a device if no such choice is found.
void fit_layers(const char * path, llama_model_params & model_params, llama_context_params context_params);

// For a context that could not be created: how much memory it asks for and which n_ctx would fit, in a sentence.
std::string describe_need(const llama_model * model, llama_context_params params);

} // namespace kvf
