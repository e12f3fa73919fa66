#include "kvfork.h"

#include "chat/answer.h"
#include "chat/chat_template.h"
#include "context/context_memory.h"
#include "context/fingerprint.h"
#include "engine/engine.h"
#include "kvf_error.h"
#include "store/import.h"
#include "store/inventory.h"
#include "variants/choose.h"

#include "llama-plain-text.h"
#include "log.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

struct kvf_engine {
    kvf::Engine engine;
};

struct kvf_chat {
    kvf::ChatTemplate chat_template;
};

struct kvf_answer {
    kvf::Answer answer;
};

namespace {

thread_local std::string last_error;
thread_local kvf_error   last_error_kind = KVF_ERROR_NONE;
std::atomic<int32_t>     log_level{ GGML_LOG_LEVEL_WARN };
thread_local bool        keeps_errors = false;
thread_local std::string kept_errors;

void remember(kvf_error kind, const char * message) noexcept {
    last_error_kind = kind;
    try {
        last_error = message;
    } catch (const std::exception &) { // there is no memory for it
        last_error.clear();
    }
}

// runs a call's body; what it throws becomes the thread's last error and the given result
template <typename Result, typename Body>
Result guarded(Result on_failure, Body body) noexcept {
    last_error.clear();
    last_error_kind = KVF_ERROR_NONE;
    try {
        return body();
    } catch (const kvf::Error & e) {
        remember(e.kind, e.what());
    } catch (const std::bad_alloc &) {
        remember(KVF_ERROR_INTERNAL, "out of memory");
    } catch (const std::exception & e) {
        remember(KVF_ERROR_INTERNAL, e.what());
    } catch (...) { // llama.cpp may throw what is no exception
        remember(KVF_ERROR_INTERNAL, "llama.cpp failed and does not say why");
    }
    return on_failure;
}

// what is not optional
template <typename T>
T & require(T * argument, const char * name) {
    if (!argument) {
        throw kvf::Error(KVF_ERROR_INVALID, std::string(name) + ": is NULL");
    }
    return *argument;
}

// for kvf_string_free
char * copy_string(const std::string & text) {
    char * result = new char[text.size() + 1];
    std::memcpy(result, text.c_str(), text.size() + 1);
    return result;
}

// No callback of Python's: llama.cpp also logs while the interpreter ends, and then nobody could take it.
void log_message(ggml_log_level level, const char * text, void *) {
    static thread_local bool shows = false; // GGML_LOG_LEVEL_CONT continues the line before
    static thread_local bool keeps = false;
    if (level != GGML_LOG_LEVEL_CONT) {
        const int32_t least = log_level;
        keeps               = keeps_errors && level == GGML_LOG_LEVEL_ERROR;
        // the caller that keeps them will report them
        shows = least != GGML_LOG_LEVEL_NONE && level >= least && (!keeps_errors || least == GGML_LOG_LEVEL_DEBUG) &&
                !kvf::aborts_computation();
    }
    if (keeps) {
        try {
            kept_errors += text;
        } catch (const std::bad_alloc &) { // llama.cpp reports that, too, and does not expect it of a report
        }
    }
    if (shows) {
        std::fputs(text, stderr);
    }
}

} // namespace

uint32_t kvf_abi_version(void) {
    return KVF_ABI_VERSION;
}

const char * kvf_cpu_variant(void) {
    return kvf::cpu_variant();
}

const char * kvf_last_error(void) {
    return last_error.c_str();
}

enum kvf_error kvf_last_error_kind(void) {
    return last_error_kind;
}

void kvf_set_log_level(int32_t level) {
    log_level = level;
    llama_log_set(log_message, nullptr);
    // llama-common counts the other way round, from LOG_LEVEL_ERROR = 1 to LOG_LEVEL_DEBUG
    common_log_set_verbosity_thold(level == GGML_LOG_LEVEL_NONE ? -1 : LOG_LEVEL_ERROR + GGML_LOG_LEVEL_ERROR - level);
}

void kvf_keep_errors(void) {
    kept_errors.clear();
    keeps_errors = true;
}

const char * kvf_kept_errors(void) {
    keeps_errors = false;
    return kept_errors.c_str();
}

void kvf_stop_loading(void) {
    kvf::stop_loading();
}

bool kvf_goes_on_loading(float, void *) {
    return !kvf::loading_is_stopped();
}

bool kvf_fit_layers(const char * path, llama_model_params * model_params, llama_context_params context_params) {
    return guarded(false, [&] {
        kvf::fit_layers(&require(path, "path"), require(model_params, "model_params"), context_params);
        return true;
    });
}

uint32_t kvf_fitting_n_ctx(const llama_model * model, llama_context_params params, uint64_t host_bytes) {
    return guarded<uint32_t>(0, [&] { return kvf::fitting_n_ctx(&require(model, "model"), params, host_bytes); });
}

kvf_engine * kvf_engine_create(const llama_model *  model,
                               llama_context_params params,
                               bool                 batch_invariant,
                               double               max_gap_ms) {
    return guarded<kvf_engine *>(
        nullptr, [&] { return new kvf_engine{ { &require(model, "model"), params, batch_invariant, max_gap_ms } }; });
}

bool kvf_engine_set_lora(kvf_engine * engine, llama_adapter_lora * lora, float scale) {
    return guarded(false, [&] {
        require(engine, "engine").engine.set_lora(&require(lora, "lora"), scale);
        return true;
    });
}

bool kvf_engine_open_store(kvf_engine * engine,
                           const char * path,
                           uint64_t     max_bytes,
                           const char * weights,
                           const char * name) {
    return guarded(false, [&] {
        require(engine, "engine")
            .engine.open_store(&require(path, "path"), max_bytes, &require(weights, "weights"), &require(name, "name"));
        return true;
    });
}

char * kvf_engine_stored(kvf_engine * engine, const char * name_space, const llama_token * tokens, size_t n_tokens) {
    return guarded<char *>(nullptr, [&] {
        std::vector<llama_token> all;
        if (n_tokens > 0) {
            all.assign(&require(tokens, "tokens"), tokens + n_tokens);
        }
        return copy_string(require(engine, "engine").engine.stored(name_space ? name_space : "", all));
    });
}

bool kvf_engine_check_integrity(kvf_engine * engine) {
    return guarded(false, [&] {
        require(engine, "engine").engine.check_integrity();
        return true;
    });
}

bool kvf_engine_hold(kvf_engine * engine, bool held) {
    return guarded(false, [&] {
        require(engine, "engine").engine.hold(held);
        return true;
    });
}

int32_t kvf_engine_step(kvf_engine * engine) {
    return guarded<int32_t>(-1, [&] { return require(engine, "engine").engine.step() ? 1 : 0; });
}

bool kvf_engine_save(kvf_engine * engine) {
    return guarded(false, [&] {
        require(engine, "engine").engine.save();
        return true;
    });
}

char * kvf_engine_store_fault(kvf_engine * engine) {
    return guarded<char *>(nullptr, [&] {
        const std::string fault = require(engine, "engine").engine.take_store_fault();
        return fault.empty() ? nullptr : copy_string(fault);
    });
}

char * kvf_store_list(const char * path, bool verify) {
    return guarded<char *>(nullptr, [&] { return copy_string(kvf::list_store(&require(path, "path"), verify)); });
}

char * kvf_store_prune(const char * path, uint64_t max_bytes) {
    return guarded<char *>(nullptr, [&] { return copy_string(kvf::prune_store(&require(path, "path"), max_bytes)); });
}

char * kvf_store_import(const char * path, const char * from, uint64_t max_bytes) {
    return guarded<char *>(nullptr, [&] {
        return copy_string(
            kvf::import_store(&require(path, "path"), &require(from, "from"), max_bytes, kvf::build_fingerprint()));
    });
}

void kvf_engine_close(kvf_engine * engine) {
    guarded(0, [&] {
        require(engine, "engine").engine.close();
        return 0;
    });
}

void kvf_engine_free(kvf_engine * engine) {
    delete engine;
}

bool kvf_engine_clear(kvf_engine * engine) {
    return guarded(false, [&] {
        require(engine, "engine").engine.clear();
        return true;
    });
}

kvf_stats kvf_engine_stats(const kvf_engine * engine) {
    return guarded(kvf_stats{}, [&] { return require(engine, "engine").engine.stats(); });
}

kvf_request kvf_request_default(void) {
    const common_params_sampling sampling;

    kvf_request request = {};
    request.n_predict   = -1;
    request.n_logprobs  = -1;
    request.share       = true;
    request.sampling    = {
        sampling.seed,           sampling.top_k,
        sampling.top_p,          sampling.min_p,
        sampling.typ_p,          sampling.temp,
        sampling.penalty_last_n, sampling.penalty_repeat,
        sampling.penalty_freq,   sampling.penalty_present,
    };
    return request;
}

kvf_branch_id kvf_submit(kvf_engine * engine, const kvf_request * request) {
    return guarded<kvf_branch_id>(0,
                                  [&] { return require(engine, "engine").engine.submit(require(request, "request")); });
}

kvf_branch_id kvf_fork(kvf_engine * engine, kvf_branch_id branch, uint32_t seed) {
    return guarded<kvf_branch_id>(0, [&] { return require(engine, "engine").engine.fork(branch, seed); });
}

void kvf_cancel(kvf_engine * engine, kvf_branch_id branch) {
    guarded(0, [&] {
        require(engine, "engine").engine.cancel(branch);
        return 0;
    });
}

void kvf_end_run(kvf_engine * engine, kvf_run_id run) {
    guarded(0, [&] {
        require(engine, "engine").engine.end_run(run);
        return 0;
    });
}

int32_t kvf_poll(kvf_engine * engine, kvf_event * events, size_t n_max, int32_t timeout_ms) {
    return guarded<int32_t>(-1, [&] {
        if (n_max > 0) {
            require(events, "events");
        }
        return require(engine, "engine").engine.poll(events, n_max, timeout_ms);
    });
}

kvf_chat * kvf_chat_create(const llama_model * model, const char * chat_template) {
    return guarded<kvf_chat *>(nullptr, [&] { return new kvf_chat{ { &require(model, "model"), chat_template } }; });
}

void kvf_chat_free(kvf_chat * chat) {
    delete chat;
}

char * kvf_chat_render(const kvf_chat * chat, const char * request) {
    return guarded<char *>(
        nullptr, [&] { return copy_string(require(chat, "chat").chat_template.render(&require(request, "request"))); });
}

char * kvf_chat_capabilities(const kvf_chat * chat) {
    return guarded<char *>(nullptr, [&] { return copy_string(require(chat, "chat").chat_template.capabilities()); });
}

void kvf_string_free(char * string) {
    delete[] string;
}

int64_t kvf_tokenize(const llama_model * model,
                     const char *        text,
                     size_t              n_text,
                     const uint64_t *    plain,
                     size_t              n_plain,
                     llama_token *       tokens,
                     size_t              n_max,
                     bool                add_special,
                     bool                parse_special) {
    return guarded<int64_t>(-1, [&] {
        require(model, "model");
        if (n_text > 0) {
            require(text, "text");
        }
        if (n_plain > 0) {
            require(plain, "plain");
        }
        if (n_max > 0) {
            require(tokens, "tokens");
        }
        if (llama_vocab_type(llama_model_get_vocab(model)) == LLAMA_VOCAB_TYPE_NONE) {
            throw kvf::Error(KVF_ERROR_INVALID, "model: has no vocabulary: pass tokens instead of text");
        }
        if (n_text > INT32_MAX) {
            throw kvf::Error(KVF_ERROR_INVALID, "text: has " + std::to_string(n_text) + " bytes: pass at most " +
                                                    std::to_string(INT32_MAX));
        }
        const int32_t n = llama_tokenize_plain(
            llama_model_get_vocab(model), text, static_cast<int32_t>(n_text), plain, n_plain, tokens,
            static_cast<int32_t>(std::min<size_t>(n_max, INT32_MAX)), add_special, parse_special);
        return std::abs(static_cast<int64_t>(n));
    });
}

kvf_answer * kvf_answer_create(const char * format) {
    return guarded<kvf_answer *>(
        nullptr, [&] { return new kvf_answer{ kvf::Answer(kvf::AnswerFormat(&require(format, "format"))) }; });
}

void kvf_answer_free(kvf_answer * answer) {
    delete answer;
}

char * kvf_answer_push(kvf_answer * answer, const char * text, size_t n_text, bool is_last) {
    return guarded<char *>(nullptr, [&] {
        kvf::Answer & reader = require(answer, "answer").answer;
        return copy_string(reader.push(n_text > 0 ? std::string(&require(text, "text"), n_text) : "", is_last));
    });
}
