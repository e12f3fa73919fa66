#pragma once

#include "kvfork.h"

#include "sampling.h"

namespace kvf {

// Checks a request's sampling parameters and grammar and turns them into llama-common's.
// n_most: tokens that the branch can have at most. Throws Error(KVF_ERROR_INVALID) that names the argument.
common_params_sampling sampling_params(const llama_vocab * vocab, const kvf_request & request, size_t n_most);

// a sampler that has seen the tokens, of which the first n_prompt were not generated
common_sampler_ptr make_sampler(const llama_model *              model,
                                const common_params_sampling &   params,
                                const std::vector<llama_token> & tokens,
                                size_t                           n_prompt);

// a sampler in the same state: the tokens that it has seen, its grammar, its thinking budget; a seed of LLAMA_DEFAULT_SEED keeps its
// random state, too
common_sampler_ptr clone_sampler(common_sampler * sampler, uint32_t seed);

// The token that a sampler with these parameters chooses from a row of logits if it sees only those that its top_k lets
// through: the same one, and its random state is the same afterwards. LLAMA_TOKEN_NULL, and nothing done: only choose()
// knows, since the parameters look at all tokens, or the greatest logits are equal.
llama_token choose_of_few(common_sampler *               sampler,
                          const common_params_sampling & params,
                          const float *                  logits,
                          int32_t                        n_vocab);

// The token that a sampler chooses from a row of logits. Throws Error(KVF_ERROR_INVALID) if every one is ruled out.
llama_token choose(common_sampler * sampler, llama_context * ctx, int32_t i_logits);

// The token that a sampler with these parameters chooses from a row of logits, if that is sure to be the greatest of
// them: many times as fast as asking the sampler. LLAMA_TOKEN_NULL: only the sampler knows.
llama_token most_likely(const common_params_sampling & params, const float * logits, int32_t n_vocab);

// the chosen token's log-probability, then the n most likely ones', from the logits of one row
std::vector<kvf_logprob> logprobs(const float * logits, int32_t n_vocab, llama_token chosen, int32_t n);

} // namespace kvf
