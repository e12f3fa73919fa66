#pragma once

#include "llama.h"
#include "store/digest.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace kvf {

// What is wrong with the store, in words: which file, what of it, and what to do. It never ends a branch.
struct StoreError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A file of the store is not what was once written there.
struct DamagedError : StoreError {
    using StoreError::StoreError;
};

// What a file of the store is about: some tokens of a prompt, and those before them.
//
// Its name is a hash of all of that, so whoever has the same prompt finds it, and nobody who has another.
struct Segment {
    Digest                   shelf  = {}; // whose numbers they are: model, parameters and namespace
    Digest                   parent = {}; // the name of the segment before; zeros: there is none
    uint32_t                 begin  = 0;  // the position of its first token
    std::vector<llama_token> tokens;
    bool is_whole = false; // it has all that a sequence of these tokens needs, and not a row for each

    uint32_t end() const { return begin + static_cast<uint32_t>(tokens.size()); }

    Digest name() const;

    // of its file: the end first, so that a listing tells which of two is longer
    std::string file_name() const;
};

// what its tokens have left in the memory, as llama-rows.h has it
struct Payload {
    std::unique_ptr<uint8_t[]> data;
    size_t                     size = 0;

    Payload() = default;

    explicit Payload(size_t size) : data(new uint8_t[size]), size(size) {}
};

// of a file in bytes
size_t file_size(const Segment & segment, size_t n_payload);

// the end of a segment with such a file's name, 0 if no segment has it
uint32_t end_of_file_name(const std::string & file_name);

// Writes a file that must not exist, of this process's user only, and returns when it is on the disk. Throws StoreError.
void write_segment(const std::string & path, const Segment & segment, const Payload & payload);

// Reads what a file is about, without its payload. Throws DamagedError if anything of it does not fit together, StoreError
// if it cannot be read.
Segment read_segment(const std::string & path);

// Reads the payload of a file that is to be about a segment. Throws as read_segment.
Payload read_payload(const std::string & path, const Segment & segment);

// why a call of the system failed, in words
StoreError system_error(const std::string & what, int error);

} // namespace kvf
