#include "store/digest.h"

#include "hash/xxhash/xxhash.h"

namespace kvf {

Sha256::Sha256() {
    sha256_init(&state_);
}

Sha256 & Sha256::add(const void * data, size_t n) {
    sha256_update(&state_, static_cast<const unsigned char *>(data), n);
    return *this;
}

Sha256 & Sha256::add(uint64_t number) {
    return add(&number, sizeof(number));
}

Sha256 & Sha256::add(const std::string & text) {
    return add(text.size()).add(text.data(), text.size());
}

Sha256 & Sha256::add(const Digest & digest) {
    return add(digest.data(), digest.size());
}

Digest Sha256::digest() const {
    sha256_t state = state_;
    Digest   out;
    sha256_final(&state, out.data());
    return out;
}

std::string to_hex(const Digest & digest) {
    static const char digits[] = "0123456789abcdef";
    std::string       out;
    for (const uint8_t byte : digest) {
        out += digits[byte >> 4];
        out += digits[byte & 15];
    }
    return out;
}

uint64_t checksum(const void * data, size_t n, uint64_t seed) {
    return XXH3_64bits_withSeed(data, n, seed);
}

} // namespace kvf
