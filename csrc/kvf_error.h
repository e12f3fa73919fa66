#pragma once

#include "kvfork.h"

#include <new>
#include <stdexcept>
#include <string>

namespace kvf {

// the one exception that this engine throws: a kind that callers can tell apart, and a sentence for people
struct Error : std::runtime_error {
    Error(kvf_error kind, const std::string & message) : std::runtime_error(message), kind(kind) {}

    kvf_error kind;
};

// why something failed, for people
inline const char * reason(const std::exception & e) noexcept {
    return dynamic_cast<const std::bad_alloc *>(&e) ? "out of memory" : e.what();
}

} // namespace kvf
