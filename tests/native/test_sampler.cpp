// The short way to a greedy token against the sampler's own: wherever the short way answers, both say the same, on rows
// that a model computes and on rows that are made to confuse. It answers where it is meant to, and nowhere else.
//
// usage: test_sampler MODEL.gguf FOLDER

#include "ggml-cpp.h"
#include "harness.h"
#include "text/sampler.h"

#include <cmath>
#include <functional>
#include <limits>

using kvf::most_likely;

namespace {

using Row  = std::vector<float>;
using Edit = std::function<void(kvf_request &)>;

common_params_sampling make_params(const Model & model, const Edit & edit) {
    const Tokens prompt  = { 1 };
    kvf_request  request = make_request(prompt, 8);
    request.ignore_eos   = false;
    edit(request);
    return kvf::sampling_params(llama_model_get_vocab(model.model.get()), request, /* n_most = */ 4096);
}

// what llama-common's chain chooses from a row
llama_token chain_choice(const Model &                  model,
                         const common_params_sampling & params,
                         const Tokens &                 said,
                         const Row &                    row) {
    const common_sampler_ptr      sampler = kvf::make_sampler(model.model.get(), params, said, 0);
    std::vector<llama_token_data> data;
    for (const float logit : row) {
        data.push_back({ static_cast<llama_token>(data.size()), logit, 0.0f });
    }
    llama_token_data_array array = { data.data(), data.size(), -1, false };
    llama_sampler_apply(common_sampler_get(sampler.get()), &array);
    return array.data[array.selected].id;
}

// the lengths at which llama.cpp's samplers take other ways, and one that is no multiple of anything
const std::vector<size_t> lengths = { 1, 2, 31, 32, 33, 128, 1024, 1025, 5003 };

Row random_row(std::mt19937 & rng, size_t n) {
    std::normal_distribution<float> logit(0.0f, 4.0f);
    Row                             row(n);
    for (float & x : row) {
        x = logit(rng);
    }
    return row;
}

size_t argmax(const Row & row) {
    return std::max_element(row.begin(), row.end()) - row.begin();
}

// greedy requests that leave the choice to the logits
const std::vector<Edit> plain = {
    [](kvf_request &) {},
    [](kvf_request & r) { r.sampling.temperature = -1.0f; },
    [](kvf_request & r) { r.sampling.top_k = 0; },
    [](kvf_request & r) { r.sampling.top_k = 1; },
    [](kvf_request & r) { r.sampling.top_k = 500; },
    [](kvf_request & r) { r.sampling.top_p = r.sampling.min_p = 1.0f; },
    [](kvf_request & r) { r.sampling.top_p = r.sampling.min_p = 0.0f; },
    [](kvf_request & r) { r.sampling.top_k = 0, r.sampling.top_p = 0.999f, r.sampling.min_p = 0.0f; },
    [](kvf_request & r) { r.sampling.top_k = 0, r.sampling.top_p = 1.0f; },
    [](kvf_request & r) { r.sampling.repeat_last_n = 0, r.sampling.repeat_penalty = 2.0f; },
    [](kvf_request & r) { r.n_logprobs = 5; },
};

// requests whose choice is the sampler's business
const std::vector<Edit> involved = {
    [](kvf_request & r) { r.sampling.temperature       = 0.001f; },
    [](kvf_request & r) { r.sampling.repeat_penalty = 1.5f; },
    [](kvf_request & r) { r.sampling.frequency_penalty = 0.5f; },
    [](kvf_request & r) { r.sampling.presence_penalty = -0.5f; },
    [](kvf_request & r) { r.sampling.typical_p = 0.9f; },
    [](kvf_request & r) { r.grammar = "root ::= [0-9]+"; },
};

void test_random_rows(const Model & model) {
    std::mt19937 rng(1);
    for (const Edit & edit : plain) {
        const common_params_sampling params = make_params(model, edit);
        for (const size_t n : lengths) {
            for (int round = 0; round < 8; ++round) {
                Row row = random_row(rng, n);
                if (round == 1) {
                    row.back() = 100.0f;
                } else if (round == 2) {
                    row.front() = 100.0f;
                } else if (round == 3) { // all but one are ruled out
                    std::fill(row.begin(), row.end(), -INFINITY);
                    row[rng() % n] = -std::numeric_limits<float>::max();
                } else if (round == 4) { // the next one is as near as can be
                    const size_t i           = argmax(row);
                    row[(i + n / 2 + 1) % n] = std::nextafter(row[i], -INFINITY);
                    row[i]                   = n > 1 ? std::nextafter(row[i], INFINITY) : row[i];
                }
                const llama_token token = most_likely(params, row.data(), static_cast<int32_t>(n));
                CHECK(token == static_cast<llama_token>(argmax(row)));
                CHECK(token == chain_choice(model, params, {}, row));
            }
        }
    }
}

void test_others_are_the_samplers_business(const Model & model) {
    std::mt19937 rng(2);
    for (const Edit & edit : involved) {
        const common_params_sampling params = make_params(model, edit);
        const Row                    row    = random_row(rng, 1000);
        CHECK(most_likely(params, row.data(), 1000) == LLAMA_TOKEN_NULL);
    }
}

// which of them the sampler takes depends on its parameters, on where they are, and on the standard library
void test_rows_without_a_greatest(const Model & model) {
    std::mt19937                 rng(3);
    const common_params_sampling params = make_params(model, plain.front());
    const auto                   none   = [&](const Row & row) {
        CHECK(most_likely(params, row.data(), static_cast<int32_t>(row.size())) == LLAMA_TOKEN_NULL);
    };
    for (const size_t n : lengths) {
        Row row = random_row(rng, n);
        if (n > 1) {
            Row tied                    = row;
            tied[(argmax(row) + 1) % n] = row[argmax(row)];
            none(tied);
            std::fill(tied.begin(), tied.end(), -1.0f);
            tied.front() = 0.0f;
            tied.back()  = -0.0f;
            none(tied);
        }
        for (const float odd : { std::nanf(""), INFINITY }) {
            for (const size_t i : { size_t(0), n / 2, n - 1 }) {
                Row bad = row;
                bad[i]  = odd;
                none(bad);
            }
        }
        none(Row(n, -INFINITY));
        none(Row(n, std::nanf("")));
    }
}

void test_biases(const Model & model) {
    std::mt19937 rng(4);
    const auto   n_vocab = static_cast<size_t>(model.n_vocab());
    for (const float bias : { -INFINITY, -50.0f, -0.01f, 0.0f, 0.01f, 50.0f }) {
        for (int round = 0; round < 50; ++round) {
            const Row  row    = random_row(rng, n_vocab);
            const auto winner = static_cast<llama_token>(argmax(row));
            for (const llama_token token : { winner, static_cast<llama_token>((winner + 1) % n_vocab) }) {
                const llama_logit_bias       biases[] = { { token, bias } };
                const common_params_sampling params   = make_params(model, [&](kvf_request & r) {
                    r.logit_bias   = biases;
                    r.n_logit_bias = 1;
                });
                const llama_token            chosen   = most_likely(params, row.data(), model.n_vocab());
                CHECK((chosen == LLAMA_TOKEN_NULL) == (token == winner || bias > 0.0f));
                CHECK(chosen == LLAMA_TOKEN_NULL || chosen == chain_choice(model, params, {}, row));
            }
        }
    }
}

// the same model with something else in the file's metadata
std::string edited(const std::string &                         path,
                   const std::string &                         out,
                   const std::function<void(gguf_context *)> & edit) {
    ggml_context *         data = nullptr;
    const gguf_context_ptr from(gguf_init_from_file(path.c_str(), { /* no_alloc = */ false, &data }));
    const ggml_context_ptr owned(data);
    CHECK(from);
    const gguf_context_ptr file(gguf_init_empty());
    gguf_set_kv(file.get(), from.get());
    edit(file.get());
    for (int64_t i = 0; i < gguf_get_n_tensors(from.get()); ++i) {
        gguf_add_tensor(file.get(), ggml_get_tensor(data, gguf_get_tensor_name(from.get(), i)));
    }
    CHECK(gguf_write_to_file(file.get(), out.c_str(), /* only_meta = */ false));
    return out;
}

// A generation whose every token is chosen both ways. Returns how many the short way knew.
int generate(const Model & model, const common_params_sampling & params, Tokens & tokens, int n) {
    const auto               n_prompt = static_cast<int32_t>(tokens.size());
    const common_sampler_ptr sampler  = kvf::make_sampler(model.model.get(), params, tokens, tokens.size());
    Context                  context(model, model.params(256, 256, 1));
    CHECK(llama_decode(context.ctx.get(), llama_batch_get_one(tokens.data(), n_prompt)) == 0);
    int n_known = 0;
    for (int i = 0; i < n; ++i) {
        const float *     logits = llama_get_logits_ith(context.ctx.get(), -1);
        const llama_token token  = most_likely(params, logits, model.n_vocab());
        llama_token       next   = common_sampler_sample(sampler.get(), context.ctx.get(), -1);
        CHECK(token == LLAMA_TOKEN_NULL || token == next);
        n_known += token == next;
        common_sampler_accept(sampler.get(), next, /* is_generated = */ true);
        CHECK(llama_decode(context.ctx.get(), llama_batch_get_one(&next, 1)) == 0);
        tokens.push_back(next);
    }
    return n_known;
}

void test_tokens_of_a_model(const Model & model) {
    std::mt19937 rng(5);
    for (const Edit & edit : plain) {
        Tokens tokens = random_tokens(rng, 10, model.n_vocab());
        CHECK(generate(model, make_params(model, edit), tokens, 60) == 60);
    }
    for (const Edit & edit : involved) {
        Tokens tokens = random_tokens(rng, 10, model.n_vocab());
        CHECK(generate(model, make_params(model, edit), tokens, 60) == 0);
    }
}

void test_tokens_that_the_model_suppresses(const std::string & path, const std::string & folder) {
    const Tokens prompt = { 1, 2, 3 };
    Tokens       tokens = prompt;
    {
        const Model model(path);
        CHECK(generate(model, make_params(model, plain.front()), tokens, 30) == 30);
    }
    const Tokens suppressed(tokens.begin() + 3, tokens.end());
    const Model  model(edited(path, folder + "/suppressed.gguf", [&](gguf_context * file) {
        gguf_set_arr_data(file, "tokenizer.ggml.suppress_tokens", GGUF_TYPE_INT32, suppressed.data(),
                           suppressed.size());
    }));
    Tokens       others = prompt;
    CHECK(generate(model, make_params(model, plain.front()), others, 30) < 30);
    for (size_t i = prompt.size(); i < others.size(); ++i) {
        CHECK(std::find(suppressed.begin(), suppressed.end(), others[i]) == suppressed.end());
    }
}

// a grammar's end is the text's, whatever is said of end-of-generation tokens
void test_ends_of_grammars(const std::string & path, const std::string & folder) {
    const llama_token end = 100;
    const Model       model(edited(path, folder + "/with_end.gguf",
                                   [&](gguf_context * file) { gguf_set_val_u32(file, "tokenizer.ggml.eos_token_id", end); }));
    CHECK(llama_vocab_is_eog(llama_model_get_vocab(model.model.get()), end));
    const Tokens prompt = { 1, 2, 3 };
    const auto   run    = [&](const Edit & edit) {
        Context                         context(model, model.params(256, 64, 4));
        kvf::Scheduler                  scheduler(context.ctx.get());
        std::map<kvf_branch_id, Record> records;
        kvf_request                     request = make_request(prompt, 8);
        edit(request);
        scheduler.submit(make_branch(model, 1, request));
        run_to_end(scheduler, records);
        return records[1];
    };
    const llama_logit_bias no_end = { end, -INFINITY };
    const llama_logit_bias no_one = { 1, -INFINITY };
    for (const float temperature : { 0.0f, 1.0f }) {
        const auto with = [&](const char * grammar, bool ignore_eos, const llama_logit_bias * bias) {
            return run([&](kvf_request & request) {
                request.sampling.temperature = temperature;
                request.grammar              = grammar;
                request.ignore_eos           = ignore_eos;
                request.logit_bias           = bias;
                request.n_logit_bias         = bias ? 1 : 0;
            });
        };
        for (const char * grammar : { "root ::= \"1\"", "root ::= \"1\" (\"2\" | \"\")" }) {
            for (const llama_logit_bias * bias : { static_cast<const llama_logit_bias *>(nullptr), &no_end }) {
                const Record r = with(grammar, bias == nullptr, bias);
                CHECK(r.finish == KVF_FINISH_STOP && !r.tokens.empty() && r.tokens.size() <= 2);
            }
        }
        // where it goes on, it goes on
        const Record r = with("root ::= [0-9a-f]*", true, nullptr);
        CHECK(r.finish == KVF_FINISH_LENGTH && r.tokens.size() == 8);
        const Record none = with("root ::= \"1\"", true, &no_one);
        CHECK(none.finish == KVF_FINISH_ERROR && none.error == KVF_ERROR_INVALID);
    }
}

// top_k on a large vocabulary: what the sampler draws when it sees a few tokens is what it draws when it sees all of them,
// for as long as both go on from the same random state.
void test_few_of_a_large_vocabulary(const Model & model) {
    std::mt19937 rng(11);
    size_t       n_short = 0;
    size_t       n_long  = 0;
    for (int round = 0; round < 60; ++round) {
        const auto   params = make_params(model, [&](kvf_request & request) {
            request.sampling.seed        = rng();
            request.sampling.temperature = std::vector<float>{ 0.0f, 0.3f, 1.0f, 5.0f }[rng() % 4];
            request.sampling.top_k       = std::vector<int32_t>{ 1, 5, 40, 200 }[rng() % 4];
            request.sampling.top_p       = rng() % 2 ? 0.9f : 1.0f;
            request.sampling.min_p       = rng() % 2 ? 0.05f : 0.0f;
            request.sampling.typical_p   = rng() % 3 ? 1.0f : 0.8f;
        });
        const size_t n      = std::vector<size_t>{ 5003, 49152, 151936, 262144 }[rng() % 4];
        const Tokens said   = { 1, 2 };
        const auto   few    = kvf::make_sampler(model.model.get(), params, said, 0);
        const auto   all    = kvf::make_sampler(model.model.get(), params, said, 0);
        for (int draw = 0; draw < 6; ++draw) {
            Row row = random_row(rng, n);
            if (draw == 3) { // a model that forbids some
                std::fill_n(row.begin() + n / 2, n / 8, -INFINITY);
            }
            if (draw == 4) { // with one of its greatest twice
                row[rng() % n] = row[argmax(row)];
            }
            std::vector<llama_token_data> data;
            for (const float logit : row) {
                data.push_back({ static_cast<llama_token>(data.size()), logit, 0.0f });
            }
            std::vector<llama_token_data> copy  = data;
            llama_token_data_array        array = { data.data(), data.size(), -1, false };
            llama_sampler_apply(common_sampler_get(all.get()), &array);
            const llama_token expected = array.data[array.selected].id;

            llama_token token = kvf::choose_of_few(few.get(), params, row.data(), static_cast<int32_t>(n));
            ++(token == LLAMA_TOKEN_NULL ? n_long : n_short);
            CHECK(draw != 4 || token == LLAMA_TOKEN_NULL);
            if (token == LLAMA_TOKEN_NULL) { // its random state is as it was
                array = { copy.data(), copy.size(), -1, false };
                llama_sampler_apply(common_sampler_get(few.get()), &array);
                token = array.data[array.selected].id;
            }
            CHECK(token == expected);
        }
    }
    std::printf("%zu draws of few tokens, %zu of all\n", n_short, n_long);
    CHECK(n_short > 150);
}

void test_few_are_not_enough(const Model & model) {
    std::mt19937           rng(12);
    const Row              row           = random_row(rng, 49152);
    const llama_logit_bias bias          = { 7, 1.0f };
    const Edit             all_of_them[] = {
        [](kvf_request & request) { request.sampling.top_k = 0; },
        [](kvf_request & request) { request.sampling.top_k = 40000; },
        [](kvf_request & request) { request.sampling.repeat_penalty = 1.1f; },
        [](kvf_request & request) { request.sampling.presence_penalty = 0.1f; },
        [](kvf_request & request) { request.grammar = "root ::= .*"; },
        [&](kvf_request & request) {
            request.logit_bias           = &bias;
            request.n_logit_bias         = 1;
        },
    };
    const auto chosen = [&](const Edit & edit, const Row & logits) {
        const auto params  = make_params(model, [&](kvf_request & request) {
            request.sampling.temperature = 1.0f;
            edit(request);
        });
        const auto sampler = kvf::make_sampler(model.model.get(), params, { 1 }, 0);
        return kvf::choose_of_few(sampler.get(), params, logits.data(), static_cast<int32_t>(logits.size()));
    };
    for (const Edit & edit : all_of_them) {
        CHECK(chosen(edit, row) == LLAMA_TOKEN_NULL);
    }
    const Edit none = [](kvf_request &) {};
    CHECK(chosen(none, row) != LLAMA_TOKEN_NULL);
    for (const float odd : { NAN, INFINITY }) {
        for (const size_t i : { size_t(5), size_t(49151) }) {
            Row bad = row;
            bad[i]  = odd;
            CHECK(chosen(none, bad) == LLAMA_TOKEN_NULL);
        }
    }
    CHECK(chosen(none, Row(49152, 1.0f)) == LLAMA_TOKEN_NULL);
    CHECK(chosen(none, Row(49152, -INFINITY)) == LLAMA_TOKEN_NULL);
    CHECK(chosen(none, random_row(rng, 100)) == LLAMA_TOKEN_NULL);
}

} // namespace

int main(int argc, char ** argv) {
    CHECK(argc == 3);
    test_tokens_that_the_model_suppresses(argv[1], argv[2]);
    test_ends_of_grammars(argv[1], argv[2]);
    const Model model(argv[1]);
    test_random_rows(model);
    test_others_are_the_samplers_business(model);
    test_rows_without_a_greatest(model);
    test_biases(model);
    test_tokens_of_a_model(model);
    test_few_of_a_large_vocabulary(model);
    test_few_are_not_enough(model);
}
