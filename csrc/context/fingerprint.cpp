#include "context/fingerprint.h"

#include "build-info.h"
#include "ggml-backend.h"
#include "llama-rows.h"
#include "nlohmann/json.hpp"

#include <cstdlib>

namespace kvf {

namespace {

// Some models have one set of RoPE factors for contexts as long as those of their training, and one for longer ones.
bool is_longer_than_trained(llama_context * ctx, const llama_context_params & params) {
    const llama_model * model = llama_get_model(ctx);

    char text[64];
    char arch[64];
    long n_trained = llama_model_n_ctx_train(model);
    if (params.yarn_orig_ctx > 0) {
        n_trained = params.yarn_orig_ctx;
    } else if (llama_model_meta_val_str(model, "general.architecture", arch, sizeof(arch)) > 0 &&
               llama_model_meta_val_str(model, (std::string(arch) + ".rope.scaling.original_context_length").c_str(),
                                        text, sizeof(text)) > 0) {
        n_trained = std::strtol(text, nullptr, 10);
    }
    return static_cast<long>(llama_n_ctx_seq(ctx)) > n_trained;
}

// other builds and other kernels round otherwise
void add_build(nlohmann::ordered_json & out) {
    out["llama.cpp"] = llama_commit();
    out["patches"]   = KVFORK_PATCHES;
    out["system"]    = llama_print_system_info();
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        out["devices"].push_back(ggml_backend_dev_description(ggml_backend_dev_get(i)));
    }
}

std::string text_of(const nlohmann::ordered_json & out) {
    return out.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

} // namespace

std::string build_fingerprint() {
    nlohmann::ordered_json out;
    add_build(out);
    return text_of(out);
}

std::string fingerprint(llama_context *              ctx,
                        const llama_context_params & params,
                        bool                         batch_invariant,
                        const std::string &          weights) {
    nlohmann::ordered_json out;
    out["weights"] = weights;
    add_build(out);
    out["batch_invariant"] = batch_invariant;

    const llama_memory_t memory = llama_get_memory(ctx);
    const char *         no_rot = std::getenv("LLAMA_ATTN_ROT_DISABLE"); // which llama.cpp reads
    out["rows"]                 = llama_memory_rows_kind(memory, nullptr);
    out["row_bytes"]            = llama_memory_rows_size(memory, 1);
    out["type_k"]               = ggml_type_name(params.type_k);
    out["type_v"]               = ggml_type_name(params.type_v);
    out["no_rotation"]          = no_rot ? no_rot : "";
    out["flash_attn_type"]      = params.flash_attn_type;
    out["attention_type"]       = params.attention_type;
    out["swa_full"]             = params.swa_full;
    out["offload_kqv"]          = params.offload_kqv;
    out["op_offload"]           = params.op_offload;
    out["rope_scaling_type"]    = params.rope_scaling_type;
    out["rope_freq_base"]       = params.rope_freq_base;
    out["rope_freq_scale"]      = params.rope_freq_scale;
    out["yarn_ext_factor"]      = params.yarn_ext_factor;
    out["yarn_attn_factor"]     = params.yarn_attn_factor;
    out["yarn_beta_fast"]       = params.yarn_beta_fast;
    out["yarn_beta_slow"]       = params.yarn_beta_slow;
    out["yarn_orig_ctx"]        = params.yarn_orig_ctx;
    out["longer_than_trained"]  = is_longer_than_trained(ctx, params);
    return text_of(out);
}

} // namespace kvf
