#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

extern "C" {
#include "hash/sha256/sha256.h"
}

namespace kvf {

using Digest = std::array<uint8_t, 32>;

// SHA-256 of what is added, a piece after the other. Text goes in with its length, so that no two lists of pieces are alike.
class Sha256 {
  public:
    Sha256();

    Sha256 & add(const void * data, size_t n);
    Sha256 & add(uint64_t number);
    Sha256 & add(const std::string & text);
    Sha256 & add(const Digest & digest);

    Digest digest() const;

  private:
    sha256_t state_;
};

// 64 characters, in lower case
std::string to_hex(const Digest & digest);

// XXH3: finds what a disk, a cable or a half-finished write does to data, not what somebody does on purpose
uint64_t checksum(const void * data, size_t n, uint64_t seed);

} // namespace kvf
