// kvfork.h - the C ABI of the kvfork engine.
//
// One engine owns one llama_context and one thread that runs it. Callers submit branches, poll events, cancel.
// Every function may be called from any thread unless it says otherwise, none throws, none aborts on what a caller
// passes: NULL, where it is not said to be allowed, is refused, and the kvf_..._free functions ignore it. (A handle that
// is neither NULL nor alive cannot be distinguished from one that is.) A function that can fail says what it returns then;
// kvf_last_error() returns why, in words.
#pragma once

#include "llama.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#    define KVF_API __declspec(dllexport)
#else
#    define KVF_API __attribute__((visibility("default")))
#endif

// raised whenever a struct or a function below changes; the Python side refuses any other
#define KVF_ABI_VERSION 13

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvf_engine kvf_engine;
typedef struct kvf_chat   kvf_chat;
typedef struct kvf_answer kvf_answer;

// a branch's name for life; 0 is no branch
typedef uint64_t kvf_branch_id;

// a run's name, which callers give and never give again; 0 is no run
typedef uint64_t kvf_run_id;

enum kvf_error {
    KVF_ERROR_NONE     = 0,
    KVF_ERROR_INVALID  = 1, // an argument is wrong: the message names it, its value and the remedy
    KVF_ERROR_OVERFLOW = 2, // the prompt cannot fit into the context, however empty
    KVF_ERROR_CLOSED   = 3, // the engine was closed
    KVF_ERROR_UNKNOWN  = 4, // no such branch, or it has ended
    KVF_ERROR_INTERNAL = 5, // the model or the back end failed
};

enum kvf_finish {
    KVF_FINISH_NONE      = 0, // still running
    KVF_FINISH_STOP      = 1, // end-of-generation token, or a stop string
    KVF_FINISH_LENGTH    = 2, // n_predict tokens, or the context is full
    KVF_FINISH_PREFILLED = 3, // n_predict was 0: the prompt is in the cache
    KVF_FINISH_CANCELLED = 4,
    KVF_FINISH_ERROR     = 5, // see kvf_event::error and ::text
};

enum kvf_event_type {
    KVF_EVENT_PREFILL = 0, // n_done tokens of the prompt are cached, here or by whom it waits for; again while it waits
    KVF_EVENT_TOKEN   = 1, // one token was generated; its text may come with a later one
    KVF_EVENT_DONE    = 2, // the last event of a branch
};

// what a branch leaves to others when it has ended
enum kvf_keep {
    KVF_KEEP_ALL = 0, // all that it has computed
    KVF_KEEP_PREFIX =
        1, // what it has in common with others that have been there: what it forked, and what was forked from it
    KVF_KEEP_NONE = 2, // nothing, neither in the cells nor in the store
};

struct kvf_sampling {
    uint32_t seed;              // LLAMA_DEFAULT_SEED = a random one
    int32_t  top_k;             // <= 0: off
    float    top_p;             // 1: off
    float    min_p;             // 0: off
    float    typical_p;         // 1: off
    float    temperature;       // <= 0: greedy
    int32_t  repeat_last_n;     // tokens that the penalties look back on, as far as there are any; 0: off
    float    repeat_penalty;    // 1e-6 to 1e6; 1: off
    float    frequency_penalty; // -1e6 to 1e6; 0: off
    float    presence_penalty;  // -1e6 to 1e6; 0: off
};

// what to generate; every pointer is only read during the call it is passed to
struct kvf_request {
    const llama_token * tokens; // the prompt
    size_t              n_tokens;

    int32_t       n_predict;  // most tokens to generate; 0: prefill only; -1: until the context is full
    int32_t       n_logprobs; // -1: none; k >= 0: the chosen token's and the k most likely ones' per token
    bool          share;      // fork from what is cached, and leave what is computed to others
    enum kvf_keep keep;       // if it shares
    bool          ignore_eos; // go on after an end-of-generation token, unless the grammar ends there

    // Prefixes are shared only within a namespace, in the cells and in the store. NULL: that of all who give none
    const char * name_space;

    // Whose prefix this is. It is a hint: what is left of the run's branches goes after what no run needs, until
    // kvf_end_run, or until no branch had the run for 10 minutes.
    kvf_run_id run_id;

    struct kvf_sampling sampling;

    const char * const * stop; // strings that end the text and are not part of it; up to 256 of up to 4,096 bytes
    size_t               n_stop;

    const char * grammar; // GBNF with the rule "root"; NULL: none
    const char * format;  // "format" of a kvf_chat_render: what the answer has to look like; NULL: like anything

    const llama_logit_bias * logit_bias; // a token once; -1e6 to 1e6, or minus infinity: never
    size_t                   n_logit_bias;
};

struct kvf_logprob {
    llama_token token;
    float       logit;   // as the model gave it
    float       logprob; // log softmax over the whole vocabulary, before any sampling parameter
};

// tokens and times of one branch so far; times in milliseconds
struct kvf_usage {
    uint32_t n_prompt;     // tokens of the prompt
    uint32_t n_forked;     // of these: came with the fork
    uint32_t n_restored;   // of these: came from the store
    uint32_t n_prefilled;  // tokens computed to get the prompt (and, after a preemption, the text so far) in the cache
    uint32_t n_generated;  // an end-of-generation token among them
    uint32_t n_preempted;  // times that it had to give its cells up
    uint32_t n_recomputed; // of n_prefilled: had been computed before, and given up
    uint32_t n_cells_wanted; // if branches had to give way while it was there: an n_ctx with which none had; else 0
    kvf_branch_id parent_id; // the branch whose sequence it was forked from, 0: none
    double        t_wait;    // submitted until it had a sequence
    double        t_restore; // from then until the last token from the store was there, 0 if none came from it
    double        t_prefill; // from when it had a sequence until its first token (or, if it has none, its end)
    double        t_decode;  // from its first token to its last
    double        t_gap;     // the longest time between two of its tokens
};

struct kvf_event {
    kvf_branch_id branch_id;
    int32_t       type;   // enum kvf_event_type
    int32_t       finish; // enum kvf_finish; for DONE
    int32_t       error;  // enum kvf_error; for DONE with KVF_FINISH_ERROR
    uint32_t      n_done; // for PREFILL

    // for TOKEN: what can be shown by now; for an error: its message. UTF-8, never half a character, not terminated.
    const char * text;
    size_t       n_text;

    llama_token                token;    // for TOKEN
    const struct kvf_logprob * logprobs; // for TOKEN: the chosen one, then the most likely ones; else NULL
    size_t                     n_logprobs;

    struct kvf_usage usage;
};

// One part of the memory: the cells of the layers that see all tokens, those of a window, those of an indexer.
struct kvf_part {
    uint32_t cells_total;
    uint32_t cells_used;  // of a window: those that it has left, and that nothing has taken yet, among them
    uint32_t pages_total; // stretches of 64 cells
    uint32_t pages_empty;
    uint32_t window; // tokens that a sequence goes on to read; 0: all
};

#define KVF_MAX_PARTS 4

struct kvf_stats {
    uint64_t prefilled_tokens; // rows computed for prompts (and for texts that were preempted)
    uint64_t forked_tokens;    // tokens that branches got from a fork instead
    uint64_t restored_tokens;  // tokens that branches got from the store
    uint64_t generated_tokens; // tokens generated
    uint64_t stored_bytes;     // written to the store
    uint64_t forks;
    uint64_t preemptions;
    uint64_t preempted_tokens;   // cells that branches gave up in these
    uint64_t recomputed_tokens;  // of prefilled_tokens: had been computed before, and given up
    uint64_t evictions;          // snapshots dropped to make room
    uint64_t evictions_to_start; // of these: for a branch that was to start, its sequence id or its cells
    uint64_t steps;              // calls of llama_decode
    uint64_t pages_read; // stretches of 64 cells that these have read, each once a step, over all parts of the memory
    uint64_t branches_started;
    double   wait_ms;     // that these had waited for a sequence, together
    double   wait_ms_max; // and the one that waited longest
    double   gap_ms_max;  // the longest time between two tokens of a branch
    uint32_t cells_total;
    uint32_t cells_used;
    uint32_t cells_used_max;   // since the engine was created or cleared
    uint32_t cells_wanted_max; // if branches had to give way: an n_ctx with which none had; else 0
    uint32_t branches_running;
    uint32_t branches_waiting;
    uint32_t snapshots;
    uint32_t snapshots_kept; // of these: for a run that has not ended
    uint32_t n_parts;
    struct kvf_part parts[KVF_MAX_PARTS];
};

KVF_API uint32_t kvf_abi_version(void);

// The kind of processor that the library's CPU back end is compiled for, by llama.cpp's names ("haswell"): the best of
// several that this processor runs, or what the environment variable KVFORK_CPU_VARIANT names of these. "" if the library
// has one back end only, for the machine that it was built on.
KVF_API const char * kvf_cpu_variant(void);

// the calling thread's last failure in words ("" if none), and its kind
KVF_API const char *   kvf_last_error(void);
KVF_API enum kvf_error kvf_last_error_kind(void);

// messages of llama.cpp from this ggml_log_level on go to stderr, for the whole process; GGML_LOG_LEVEL_NONE: none do
KVF_API void kvf_set_log_level(int32_t level);

// From kvf_keep_errors to kvf_kept_errors, the errors that llama.cpp logs in the calling thread are kept, and shown only if
// everything is. The second returns them, a line each; the string stays valid until the next kvf_keep_errors.
KVF_API void         kvf_keep_errors(void);
KVF_API const char * kvf_kept_errors(void);

// For the end of the process: loads that are under way fail soon, and so does every later one.
KVF_API void kvf_stop_loading(void);

// false once loading was stopped; to be llama_model_params::progress_callback, which ends a load that way
KVF_API bool kvf_goes_on_loading(float progress, void * user_data);

// Chooses how much of a model goes to the devices, so that it and a context fit into their free memory. model_params are
// llama_model_default_params() in n_gpu_layers; their tensor_split and tensor_buft_overrides point to buffers of
// llama_max_devices() and llama_max_tensor_buft_overrides() entries, which must outlive the load, and come back NULL or
// filled. n_gpu_layers comes back 0 where no choice fits, and stays where everything does. Not for several threads at a
// time, since llama.cpp's log is changed meanwhile. Returns false on failure.
KVF_API bool kvf_fit_layers(const char *                path,
                            struct llama_model_params * model_params,
                            struct llama_context_params context_params);

// Returns how large n_ctx can be, up to the model's training context, so that a context with otherwise these parameters fits
// into the free memory of its devices, less some for others, and into host_bytes on the host. Two small contexts are made
// for it. Returns 0 on failure.
KVF_API uint32_t kvf_fitting_n_ctx(const struct llama_model *  model,
                                   struct llama_context_params params,
                                   uint64_t                    host_bytes);

// Takes the model (which must outlive the engine) but does not own it: engines may share one. kv_unified is set in any case.
// batch_invariant: what a branch computes is the same, bit for bit, whatever else is in the batch and in the cache, however
// its prompt is cut into chunks, for any number of threads. It is tried out on some tokens first, and refused if it is not
// so.
// max_gap_ms: while branches decode, prompts are computed in chunks for which these wait about so long, as far as the
// speed of the steps before can predict; 0: in whole batches. In batch-invariant mode they always are.
// Returns NULL on failure; llama.cpp's log has the details.
KVF_API kvf_engine * kvf_engine_create(const struct llama_model *  model,
                                       struct llama_context_params params,
                                       bool                        batch_invariant,
                                       double                      max_gap_ms);

// Applies an adapter of the engine's model, with this weight, to all that is submitted from now on. Call it while
// nothing runs. Returns false on failure.
KVF_API bool kvf_engine_set_lora(kvf_engine * engine, struct llama_adapter_lora * lora, float scale);

// Keeps what prompts leave in the cache on a disk, in a folder that several processes may use, and takes from there what would
// be computed otherwise. All of its files together have at most max_bytes; those go first that were of use the longest ago.
// weights: names the model's weights, and those of its adapter, by what is in them. name: of the model, for people; another
// one changes nothing. Call it once, after kvf_engine_set_lora.
// The folder is opened later: its faults end no branch, and kvf_engine_store_fault reports them.
// Returns false on failure: if the model's memory cannot be taken out, the message says why.
KVF_API bool kvf_engine_open_store(kvf_engine * engine,
                                   const char * path,
                                   uint64_t     max_bytes,
                                   const char * weights,
                                   const char * name);

// Writes to the store what is in the cache for later branches. Returns after all is on the disk that was there when it was
// called; false on failure, also if the store has not taken some of it.
KVF_API bool kvf_engine_save(kvf_engine * engine);

// How much of a prompt is in the store. Returns JSON, an object with "tokens" and "files": in its folder, those that have nothing
// of other prompts. name_space: as in a request. To be freed with kvf_string_free; NULL on failure.
KVF_API char * kvf_engine_stored(kvf_engine *        engine,
                                 const char *        name_space,
                                 const llama_token * tokens,
                                 size_t              n_tokens);

// The store's faults since the last call, as sentences to be freed with kvf_string_free; NULL if there were none. Each kind of
// fault is reported once.
KVF_API char * kvf_engine_store_fault(kvf_engine * engine);

// A store's files, those of one model, one set of parameters and one namespace together. Returns JSON, an array of objects with
// "shelf" (their folder), "about" (what they are, an object), "files", "tokens", "bytes", "used" (seconds since 1970) and
// "damaged" (a list of files and what is wrong with each). To be freed with kvf_string_free; NULL on failure.
// verify: read them wholly; otherwise, only what each is about.
KVF_API char * kvf_store_list(const char * path, bool verify);

// Removes files until a store has at most max_bytes: damaged and unfinished ones, and those that nothing leads to; then those
// that were of use the longest ago. Returns JSON, an object with "files" and "bytes" that were removed. To be freed with
// kvf_string_free; NULL on failure.
KVF_API char * kvf_store_prune(const char * path, uint64_t max_bytes);

// Takes what another store has into one, which is made if it is not there, up to max_bytes in all. Each file is read wholly:
// it is taken if nothing of it is damaged, if it is about what its folder and its name say, and if it comes of this build of
// llama.cpp and of a machine like this one. Returns JSON, an object with "files", "tokens" and "bytes" that are new, "known"
// (files that were there) and "refused" (a list of files, and why each was). To be freed with kvf_string_free; NULL on failure.
KVF_API char * kvf_store_import(const char * path, const char * from, uint64_t max_bytes);

// Stops the thread (a running llama_decode is aborted), ends every branch with KVF_ERROR_CLOSED and makes kvf_poll
// return -1 once the last event is taken. Idempotent.
KVF_API void kvf_engine_close(kvf_engine * engine);

// Closes it if it is not closed yet. No other call on this engine may be under way or follow.
KVF_API void kvf_engine_free(kvf_engine * engine);

// Drops every snapshot. Running branches keep their cells. Returns after it is done; false if the engine is closed.
KVF_API bool kvf_engine_clear(kvf_engine * engine);

KVF_API struct kvf_stats kvf_engine_stats(const kvf_engine * engine);

// Compares what the engine knows in several places: its branches, the prefix tree, the sequences, the cells and pages of the
// memory, and the store's index. Returns false with KVF_ERROR_INTERNAL and a sentence if something does not fit, which is a
// fault of the engine. It waits for a step's end, and for the store's disk. With the environment variable KVFORK_CHECK_STEPS,
// each step ends with it, but for the store.
KVF_API bool kvf_engine_check_integrity(kvf_engine * engine);

// For tests and debuggers: an engine that is held takes a step only when kvf_engine_step asks for one, so that the same calls
// have the same outcome each time (but for a store, which reads and writes beside the steps).
KVF_API bool kvf_engine_hold(kvf_engine * engine, bool held);

// One step of an engine that is held. Returns 1, or 0 if there was nothing to do; -1 on failure. What is to be polled is there
// then.
KVF_API int32_t kvf_engine_step(kvf_engine * engine);

// llama.cpp's default sampling, no tokens, n_predict -1, share on
KVF_API struct kvf_request kvf_request_default(void);

// Queues a branch. Returns 0 on failure: wrong arguments, a grammar that does not parse, a prompt that can never fit.
KVF_API kvf_branch_id kvf_submit(kvf_engine * engine, const struct kvf_request * request);

// Forks a branch that has not ended: a new branch with all its tokens, sampler and grammar state, which goes on from
// there; its events carry only what comes after. seed: LLAMA_DEFAULT_SEED keeps the random state, so the fork says
// what the branch says. If the branch has ended meanwhile, the new one ends at once with KVF_ERROR_UNKNOWN.
// Returns 0 if the engine is closed.
KVF_API kvf_branch_id kvf_fork(kvf_engine * engine, kvf_branch_id branch_id, uint32_t seed);

// Ends a branch within one batch step; its last event says KVF_FINISH_CANCELLED. Unknown and ended ones are ignored.
KVF_API void kvf_cancel(kvf_engine * engine, kvf_branch_id branch_id);

// Ends a run: what was kept for it is as good as anything else. Unknown and ended ones are ignored.
KVF_API void kvf_end_run(kvf_engine * engine, kvf_run_id run_id);

// Waits up to timeout_ms (-1: without limit) for events and writes up to n_max of them. Returns how many, 0 after the
// time, -1 when the engine is closed and no event is left, or if an argument is NULL. Their pointers stay valid until the
// next call.
// One thread at a time.
KVF_API int32_t kvf_poll(kvf_engine * engine, struct kvf_event * events, size_t n_max, int32_t timeout_ms);

// A model's chat template. The model's vocabulary is enough, and is not needed any more afterwards.
// chat_template: Jinja source that replaces the model's own, or "chatml"; NULL: the model's own.
// Returns NULL on failure.
KVF_API kvf_chat * kvf_chat_create(const struct llama_model * model, const char * chat_template);
KVF_API void       kvf_chat_free(kvf_chat * chat);

// What the template knows: JSON, an object of booleans under the names of llama-common's capabilities and
// "supports_thinking", to be freed with kvf_string_free; NULL on failure.
KVF_API char * kvf_chat_capabilities(const kvf_chat * chat);

// Renders messages through the template.
// request: JSON with "messages" (OpenAI's form), and optionally "tools", "tool_choice" ("auto", "none" or "required"),
// "parallel_tool_calls" (default: whether the template itself knows them), "json_schema", "add_generation_prompt" (default
// true), "enable_thinking" (default true), "chat_template_kwargs", "special_tokens_in_text" (default false: names of special
// tokens in all of these are text like any other), and "rules": {"constants": {...}, "text": GBNF}, rules that replace
// constants of the schemas in the grammar, from their JSON text to a rule's name. With tools and a schema, the answer is
// calls, or what the schema says.
// Returns JSON, to be freed with kvf_string_free; NULL on failure:
//   "prompt"       text
//   "plain"        offsets for kvf_tokenize, which has to add and to parse special tokens
//   "grammar"      for people to read
//   "stop"         strings that end the answer
//   "format"       a string for kvf_request::format and kvf_answer_create
//   "left_out"     what is not in the prompt: objects with "index" (of the message or the tool) and "part" ("content",
//                  "reasoning_content", "name", "tool_calls" or "tool")
//   "text_marks"   of "stop": what the template writes between messages and the vocabulary has no special tokens for, so that
//                  a message which has it in it cannot be distinguished from the template's
//   "is_fallback"  whether the model has no template, so that this is ChatML
KVF_API char * kvf_chat_render(const kvf_chat * chat, const char * request);
KVF_API void   kvf_string_free(char * string);

// Turns text into tokens, as llama_tokenize does. plain: offsets into the text, in order, of bytes that are part of no
// special token; a prompt without its list lets messages write control tokens.
// Returns how many tokens there are, which may be more than the n_max that are written; -1 on failure.
KVF_API int64_t kvf_tokenize(const struct llama_model * model,
                             const char *               text,
                             size_t                     n_text,
                             const uint64_t *           plain,
                             size_t                     n_plain,
                             llama_token *              tokens,
                             size_t                     n_max,
                             bool                       add_special,
                             bool                       parse_special);

// Reads one answer while it is generated. format: of the kvf_chat_render that its prompt is from. One thread at a time.
// Returns NULL on failure.
KVF_API kvf_answer * kvf_answer_create(const char * format);
KVF_API void         kvf_answer_free(kvf_answer * answer);

// Takes the next piece of the answer's text, and returns what it adds to the message.
// Returns JSON, to be freed with kvf_string_free: OpenAI's delta with "content", "reasoning_content" and "tool_calls",
// as far as there are any. A call's "index", "id" and "name" come once and whole, its "arguments" (always there) add up
// to JSON. With the last piece: if nothing could be read of the text, it is the content; if it could not be read to its
// end, there is "unread": true. NULL on failure.
KVF_API char * kvf_answer_push(kvf_answer * answer, const char * text, size_t n_text, bool is_last);

#ifdef __cplusplus
}
#endif
