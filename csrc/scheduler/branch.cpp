#include "scheduler/branch.h"

#include "kvf_error.h"
#include "text/sampler.h"

#include <string>

namespace kvf {

namespace {

void check_prompt(const llama_vocab * vocab, const kvf_request & request) {
    if (request.n_tokens == 0) {
        throw Error(
            KVF_ERROR_INVALID,
            "tokens: the prompt is empty (a chat template may make nothing of messages); it needs one token at least");
    }
    if (!request.tokens) {
        throw Error(KVF_ERROR_INVALID, "tokens: is NULL, and n_tokens is " + std::to_string(request.n_tokens));
    }
    const int32_t n_vocab = llama_vocab_n_tokens(vocab);
    for (size_t i = 0; i < request.n_tokens; ++i) {
        if (request.tokens[i] < 0 || request.tokens[i] >= n_vocab) {
            throw Error(KVF_ERROR_INVALID, "tokens[" + std::to_string(i) + "] = " + std::to_string(request.tokens[i]) +
                                               ": is not in the vocabulary of " + std::to_string(n_vocab));
        }
    }
}

// every token's text is searched for each of them
constexpr size_t MAX_STOP_STRINGS = 256;
constexpr size_t MAX_STOP_BYTES   = 4096;

std::vector<std::string> stop_strings(const kvf_request & request) {
    if (!request.stop && request.n_stop > 0) {
        throw Error(KVF_ERROR_INVALID, "stop: is NULL, and n_stop is " + std::to_string(request.n_stop));
    }
    if (request.n_stop > MAX_STOP_STRINGS) {
        throw Error(KVF_ERROR_INVALID, "n_stop = " + std::to_string(request.n_stop) + ": must be " +
                                           std::to_string(MAX_STOP_STRINGS) + " or less");
    }
    std::vector<std::string> stop;
    for (size_t i = 0; i < request.n_stop; ++i) {
        if (!request.stop[i] || !*request.stop[i]) {
            throw Error(KVF_ERROR_INVALID,
                        "stop[" + std::to_string(i) + "]: is empty and would end every text at once");
        }
        stop.emplace_back(request.stop[i]);
        if (stop.back().size() > MAX_STOP_BYTES) {
            throw Error(KVF_ERROR_INVALID, "stop[" + std::to_string(i) + "]: has " +
                                               std::to_string(stop.back().size()) + " bytes; pass " +
                                               std::to_string(MAX_STOP_BYTES) + " or less");
        }
    }
    return stop;
}

} // namespace

std::unique_ptr<Branch> make_branch(const llama_model * model,
                                    size_t              n_ctx,
                                    kvf_branch_id       id,
                                    const kvf_request & request) {
    const llama_vocab * vocab = llama_model_get_vocab(model);
    check_prompt(vocab, request);
    if (request.n_predict < -1) {
        throw Error(KVF_ERROR_INVALID, "n_predict = " + std::to_string(request.n_predict) +
                                           ": must be -1 (until the context is full), 0 (prefill only) or more");
    }

    if (request.keep < KVF_KEEP_ALL || request.keep > KVF_KEEP_NONE) {
        throw Error(KVF_ERROR_INVALID, "keep = " + std::to_string(request.keep) + ": must be one of enum kvf_keep");
    }

    auto branch            = std::make_unique<Branch>(TextStream(stop_strings(request)));
    branch->id             = id;
    branch->n_predict      = request.n_predict;
    branch->n_logprobs     = request.n_logprobs;
    branch->share          = request.share;
    branch->name_space     = request.name_space ? request.name_space : "";
    branch->keep           = request.keep;
    branch->tokens         = { request.tokens, request.tokens + request.n_tokens };
    branch->n_prompt       = request.n_tokens;
    branch->usage.n_prompt = static_cast<uint32_t>(request.n_tokens);
    if (request.run_id != 0) {
        branch->runs = { request.run_id };
    }
    branch->t_submitted = Clock::now();
    branch->sampling    = sampling_params(vocab, request, /* n_most = */ n_ctx + 1); // the last one is not computed
    if (request.n_predict != 0) {
        branch->sampler = make_sampler(model, branch->sampling, branch->tokens, branch->n_prompt);
    }
    return branch;
}

std::unique_ptr<Branch> forked(const Branch & from, kvf_branch_id id) {
    auto branch            = std::make_unique<Branch>(from.text);
    branch->id             = id;
    branch->n_logprobs     = from.n_logprobs;
    branch->n_predict      = from.n_predict < 0 ? -1 : from.n_predict - static_cast<int32_t>(from.usage.n_generated);
    branch->share          = from.share;
    branch->name_space     = from.name_space;
    branch->keep           = from.keep;
    branch->runs           = from.runs;
    branch->sampling       = from.sampling;
    branch->tokens         = from.tokens;
    branch->n_prompt       = from.tokens.size();
    branch->usage.n_prompt = static_cast<uint32_t>(branch->n_prompt);
    return branch;
}

} // namespace kvf
