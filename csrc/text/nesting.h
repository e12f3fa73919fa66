#pragma once

#include "json.h"

#include <cstddef>
#include <string>

namespace kvf {

// llama.cpp reads JSON, templates and answers by functions that call themselves, level by level: what is nested without
// limit ends the process when the thread's stack does. These limits are far above what people and models write, and let
// llama.cpp keep to 1 MiB of stack.

// What a template may take to render a request, with all that is tried for it: statements and expressions inside of one
// another, through macros too; how many are executed, some seconds' worth; characters of a text, or items of a list. A
// longer request may take more.
inline constexpr size_t MAX_TEMPLATE_LEVELS    = 400;
inline constexpr size_t MAX_TEMPLATE_WORK      = 3000000;
inline constexpr size_t MAX_TEMPLATE_SIZE      = size_t(1) << 22;
inline constexpr size_t TEMPLATE_WORK_PER_BYTE = 16; // a message of 40 bytes takes some 50, several times over
inline constexpr size_t TEMPLATE_SIZE_PER_BYTE = 4;

// levels of arrays and objects in JSON
inline constexpr size_t MAX_JSON_DEPTH = 256;

// how deep arrays and objects are nested in a JSON text
size_t json_depth(const std::string & text);

// how deep they are at most, wherever in a text JSON may begin: a text that has calls in it, among others
size_t answer_depth(const std::string & text);

// Throws Error(KVF_ERROR_INVALID) for a request to render (as kvf_chat_render() takes it) that is nested without measure:
// by itself, in the arguments of a call, which are JSON in JSON, or by what its schemas refer to.
common_json parse_request(const std::string & text);

// Throws Error(KVF_ERROR_INVALID) for a chat template in Jinja that is nested without measure.
void check_template_depth(const std::string & source);

} // namespace kvf
