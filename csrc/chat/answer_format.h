#pragma once

#include "chat.h"

#include <string>

namespace kvf {

// What a chat template, or a request's tools or schema, make of the answer: the grammar that it follows and how to read
// it. Travels as JSON, opaque to callers: from rendering to sampling, and to parsing.
struct AnswerFormat {
    std::string                         grammar;      // "": none
    bool                                grammar_lazy; // it holds only from a trigger on
    std::vector<common_grammar_trigger> triggers;
    std::vector<std::string>            preserved_tokens;  // special ones that are shown, since the parser needs them
    std::string                         generation_prompt; // the answer's beginning, which the prompt ends with
    std::string                         thinking_start;    // "": no thoughts
    std::vector<std::string>            thinking_ends;
    common_chat_format                  parser_kind;
    std::string                         parser; // as common_peg_arena saves it

    explicit AnswerFormat(const common_chat_params & params);

    // throws Error(KVF_ERROR_INVALID) if it is not what to_json() returned
    explicit AnswerFormat(const char * json);

    std::string to_json() const;

    // puts the grammar, and what belongs to it, into the parameters
    void apply(const llama_vocab * vocab, common_params_sampling & params) const;
};

} // namespace kvf
