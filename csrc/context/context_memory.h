#pragma once

#include "llama.h"

#include <string>

namespace kvf {

// For a context that could not be created: how much memory it asks for and which n_ctx would fit, in a sentence.
std::string describe_need(const llama_model * model, llama_context_params params);

} // namespace kvf
