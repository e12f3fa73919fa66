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

// A fault of the store, as a sentence: which file, what is wrong, what to do. It never ends a branch.
struct StoreError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A file of the store does not have the contents that were written.
struct DamagedError : StoreError {
    using StoreError::StoreError;
};

// The key of a file in the store: some tokens of a prompt, and the tokens before them.
//
// The file's name is a hash of all of these, so a prompt finds it exactly if it begins with the same tokens.
struct Segment {
    Digest                   shelf  = {}; // the model, the parameters and the namespace
    Digest                   parent = {}; // the name of the segment before it; zeros: it is the first
    uint32_t                 begin  = 0;  // the position of its first token
    std::vector<llama_token> tokens;
    bool                     is_whole = false; // the whole state after these tokens, instead of rows for each of them

    uint32_t end() const { return begin + static_cast<uint32_t>(tokens.size()); }

    Digest name() const;

    // the name of its file, which begins with its end, so that a listing shows which of two is longer
    std::string file_name() const;
};

// the rows or the state of its tokens, in the form of llama-rows.h
struct Payload {
    std::unique_ptr<uint8_t[]> data;
    size_t                     size = 0;

    Payload() = default;

    explicit Payload(size_t size) : data(new uint8_t[size]), size(size) {}
};

// of its file, in bytes
size_t file_size(const Segment & segment, size_t n_payload);

// the end of the segment that has this file name; 0 if none can
uint32_t end_of_file_name(const std::string & file_name);

// Writes a new file, readable for this process's user only, and returns when it is on the disk. Throws StoreError.
void write_segment(const std::string & path, const Segment & segment, const Payload & payload);

// Reads the segment of a file, without the payload. Throws DamagedError if its parts do not fit together, StoreError if it
// cannot be read.
Segment read_segment(const std::string & path);

// Reads the payload of a file, which must be of this segment. Throws as read_segment.
Payload read_payload(const std::string & path, const Segment & segment);

// the fault that a system call reported
StoreError system_error(const std::string & what, int error);

} // namespace kvf
