#pragma once

#include "kvfork.h"

#include <stdexcept>
#include <string>

namespace kvf {

// the one exception that this engine throws: a kind that callers can tell apart, and a sentence for people
struct Error : std::runtime_error {
    Error(kvf_error kind, const std::string & message) : std::runtime_error(message), kind(kind) {}

    kvf_error kind;
};

} // namespace kvf
