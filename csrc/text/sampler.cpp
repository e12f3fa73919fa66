#include "text/sampler.h"

#include "chat/answer_format.h"
#include "kvf_error.h"
#include "text/grammar.h"
#include "text/shortlist.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_set>

namespace kvf {

namespace {

template <typename Value>
void require(bool ok, const char * name, Value value, const char * remedy) {
    if (!ok) {
        throw Error(KVF_ERROR_INVALID, std::string(name) + " = " + std::to_string(value) + ": " + remedy);
    }
}

// What a bias may be, so that no sum of them and a logit overflows, or is more than llama.cpp can sort by.
constexpr float MAX_BIAS = 1e6f;

// A penalty of this much or more is no more than a ban, and any sum of such ones is a number.
constexpr float MAX_PENALTY = 1e6f;

// Below this, a temperature would make logits infinite; what it makes of them otherwise is the greatest one.
constexpr float MIN_TEMPERATURE = 1e-20f;

// The bias of an end-of-generation token that is not wanted: where a grammar allows nothing else, it is the end all the
// same.
constexpr float UNLESS_ALL_ELSE_IS_RULED_OUT = -2.0f * MAX_BIAS;

std::vector<llama_logit_bias> biases(const llama_vocab * vocab, const kvf_request & request, bool has_grammar) {
    const int32_t n_vocab = llama_vocab_n_tokens(vocab);
    const float   no_end  = has_grammar ? UNLESS_ALL_ELSE_IS_RULED_OUT : -INFINITY;

    std::vector<llama_logit_bias>   out;
    std::unordered_set<llama_token> seen;
    require(request.logit_bias || request.n_logit_bias == 0, "n_logit_bias", request.n_logit_bias,
            "but logit_bias is NULL");
    for (size_t i = 0; i < request.n_logit_bias; ++i) {
        llama_logit_bias bias = request.logit_bias[i];
        require(bias.token >= 0 && bias.token < n_vocab, "logit_bias: token", bias.token, "is not in the vocabulary");
        require(seen.insert(bias.token).second, "logit_bias: token", bias.token, "is there twice; add the two up");
        require(std::abs(bias.bias) <= MAX_BIAS || bias.bias == -INFINITY, "logit_bias: bias", bias.bias,
                "must be from -1e6 to 1e6, or minus infinity to forbid the token");
        if (llama_vocab_is_eog(vocab, bias.token) && (request.ignore_eos || bias.bias == -INFINITY)) {
            bias.bias = no_end;
        }
        out.push_back(bias);
    }
    for (llama_token token = 0; request.ignore_eos && token < n_vocab; ++token) {
        if (llama_vocab_is_eog(vocab, token) && seen.count(token) == 0) {
            out.push_back({ token, no_end });
        }
    }
    int32_t             n_suppressed = 0; // by the model: llama-common adds them by itself, but does not say so
    const llama_token * suppressed   = llama_vocab_get_suppress_tokens(vocab, &n_suppressed);
    for (int32_t i = 0; i < n_suppressed; ++i) {
        out.push_back({ suppressed[i], -INFINITY });
    }
    return out;
}

// whether tokens that have recently been are less likely
bool has_penalties(const common_params_sampling & params) {
    return params.penalty_last_n != 0 &&
           (params.penalty_repeat != 1.0f || params.penalty_freq != 0.0f || params.penalty_present != 0.0f);
}

// the index of the one greatest number of a row; LLAMA_TOKEN_NULL if several are, it is infinite, or one is not a number
llama_token argmax(const float * row, int32_t n) {
    constexpr int32_t n_lanes = 32; // side by side, or no compiler makes vectors of it

    const int32_t n_whole = n - n % n_lanes;
    float         lanes[n_lanes];
    std::fill_n(lanes, n_lanes, -INFINITY);
    for (int32_t i = 0; i < n_whole; i += n_lanes) {
        for (int32_t k = 0; k < n_lanes; ++k) {
            lanes[k] = row[i + k] > lanes[k] ? row[i + k] : lanes[k];
        }
    }
    float max = *std::max_element(lanes, lanes + n_lanes);
    for (int32_t i = n_whole; i < n; ++i) {
        max = row[i] > max ? row[i] : max;
    }

    int32_t n_found = 0;
    int32_t index   = 0;
    for (int32_t i = 0; i < n; ++i) {
        const bool found = !(row[i] < max); // so is what is not a number
        n_found += found;
        index |= found ? i : 0;
    }
    return n_found == 1 && std::isfinite(max) ? index : LLAMA_TOKEN_NULL;
}

} // namespace

common_params_sampling sampling_params(const llama_vocab * vocab, const kvf_request & request, size_t n_most) {
    const kvf_sampling & in      = request.sampling;
    const int32_t        n_vocab = llama_vocab_n_tokens(vocab);

    require(std::isfinite(in.temperature), "temperature", in.temperature, "must be finite; 0 is greedy");
    require(in.top_p >= 0.0f && in.top_p <= 1.0f, "top_p", in.top_p, "must be in [0, 1]; 1 is off");
    require(in.min_p >= 0.0f && in.min_p <= 1.0f, "min_p", in.min_p, "must be in [0, 1]; 0 is off");
    require(in.typical_p >= 0.0f && in.typical_p <= 1.0f, "typical_p", in.typical_p, "must be in [0, 1]; 1 is off");
    require(in.repeat_last_n >= 0, "repeat_last_n", in.repeat_last_n, "must be 0 (off) or more");
    require(in.repeat_penalty >= 1.0f / MAX_PENALTY && in.repeat_penalty <= MAX_PENALTY, "repeat_penalty",
            in.repeat_penalty, "must be from 1e-6 to 1e6; 1 is off");
    require(std::abs(in.frequency_penalty) <= MAX_PENALTY, "frequency_penalty", in.frequency_penalty,
            "must be from -1e6 to 1e6; 0 is off");
    require(std::abs(in.presence_penalty) <= MAX_PENALTY, "presence_penalty", in.presence_penalty,
            "must be from -1e6 to 1e6; 0 is off");
    require(request.n_logprobs >= -1 && request.n_logprobs <= n_vocab, "n_logprobs", request.n_logprobs,
            "must be -1 (none) up to the size of the vocabulary");

    common_params_sampling out;
    out.no_perf         = true;
    out.seed            = in.seed;
    out.top_k           = in.top_k;
    out.top_p           = in.top_p;
    out.min_p           = in.min_p;
    out.typ_p           = in.typical_p;
    out.temp            = in.temperature < MIN_TEMPERATURE ? 0.0f : in.temperature;
    out.penalty_last_n  = static_cast<int32_t>(std::min<size_t>(in.repeat_last_n, n_most));
    out.penalty_repeat  = in.repeat_penalty;
    out.penalty_freq    = in.frequency_penalty;
    out.penalty_present = in.presence_penalty;
    out.ignore_eos      = request.ignore_eos;

    if (request.format) {
        AnswerFormat(request.format).apply(vocab, out);
    }
    if (request.grammar && *request.grammar) {
        if (!out.grammar.empty()) {
            throw Error(KVF_ERROR_INVALID, "grammar: the format of the answer has one already; pass one of the two");
        }
        out.grammar = { COMMON_GRAMMAR_TYPE_USER, request.grammar };
    }
    if (!out.grammar.empty()) {
        check_grammar(vocab, out.grammar.grammar, /* is_exact = */ out.grammar.type == COMMON_GRAMMAR_TYPE_USER);
    }
    out.logit_bias = biases(vocab, request, !out.grammar.empty());
    return out;
}

common_sampler_ptr make_sampler(const llama_model *              model,
                                const common_params_sampling &   params,
                                const std::vector<llama_token> & tokens,
                                size_t                           n_prompt) {
    common_params_sampling copy = params; // llama-common may change what it is given
    common_sampler_ptr     sampler(common_sampler_init(model, copy));
    for (size_t i = 0; i < tokens.size(); ++i) {
        common_sampler_accept(sampler.get(), tokens[i], /* is_generated = */ i >= n_prompt);
    }
    return sampler;
}

common_sampler_ptr clone_sampler(common_sampler * sampler, uint32_t seed) {
    common_sampler_ptr clone(common_sampler_clone(sampler));
    if (seed != LLAMA_DEFAULT_SEED) { // the last one of the chain draws, and none of the others
        llama_sampler * chain = common_sampler_get(clone.get());
        llama_sampler_free(llama_sampler_chain_remove(chain, llama_sampler_chain_n(chain) - 1));
        llama_sampler_chain_add(chain, llama_sampler_init_dist(seed));
    }
    return clone;
}

llama_token choose_of_few(common_sampler *               sampler,
                          const common_params_sampling & params,
                          const float *                  logits,
                          int32_t                        n_vocab) {
    // what comes before top_k changes logits or looks at all of them; grammars and thinking budgets do without the chain
    if (!params.grammar.empty() || params.reasoning_budget_tokens >= 0 || params.reasoning_control ||
        !params.logit_bias.empty() || has_penalties(params) || params.dry_multiplier != 0.0f ||
        params.top_n_sigma > 0.0f || params.mirostat != 0) {
        return LLAMA_TOKEN_NULL;
    }
    std::vector<llama_token_data> few = shortlist(logits, n_vocab, params.top_k);
    if (few.empty()) {
        return LLAMA_TOKEN_NULL;
    }
    llama_token_data_array array = { few.data(), few.size(), /* selected = */ -1, /* sorted = */ false };
    llama_sampler_apply(common_sampler_get(sampler), &array);
    return array.data[array.selected].id;
}

llama_token choose(common_sampler * sampler, llama_context * ctx, int32_t i_logits) {
    const llama_token              token = common_sampler_sample(sampler, ctx, i_logits);
    const llama_token_data_array * among = common_sampler_get_candidates(sampler, /* do_sort = */ false);
    if (among->selected < 0 || !(among->data[among->selected].logit > -INFINITY)) {
        throw Error(KVF_ERROR_INVALID,
                    "no token is left to choose from: logit_bias forbids every one that the grammar allows; change one "
                    "of the two");
    }
    return token;
}

llama_token most_likely(const common_params_sampling & params, const float * logits, int32_t n_vocab) {
    // typical_p may drop the most likely token; top_k, top_p and min_p never do
    if (params.temp > 0.0f || has_penalties(params) || params.typ_p < 1.0f || !params.grammar.empty()) {
        return LLAMA_TOKEN_NULL;
    }
    // which of several equal ones is chosen depends on how they are sorted
    const llama_token token = argmax(logits, n_vocab);
    for (const llama_logit_bias & bias : params.logit_bias) {
        if (bias.token == token || bias.bias > 0.0f) {
            return LLAMA_TOKEN_NULL;
        }
    }
    return token;
}

std::vector<kvf_logprob> logprobs(const float * logits, int32_t n_vocab, llama_token chosen, int32_t n) {
    const float max = *std::max_element(logits, logits + n_vocab);
    double      sum = 0.0;
    for (int32_t i = 0; i < n_vocab; ++i) {
        sum += std::exp(static_cast<double>(logits[i]) - max);
    }
    const double log_sum = max + std::log(sum);

    std::vector<llama_token> top(n_vocab);
    std::iota(top.begin(), top.end(), 0);
    std::partial_sort(top.begin(), top.begin() + n, top.end(), [logits](llama_token a, llama_token b) {
        return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
    });
    top.resize(n);
    top.insert(top.begin(), chosen);

    std::vector<kvf_logprob> out;
    for (const llama_token token : top) {
        out.push_back({ token, logits[token], static_cast<float>(logits[token] - log_sum) });
    }
    return out;
}

} // namespace kvf
