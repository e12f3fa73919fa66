#pragma once

#include <cstdint>
#include <string>

namespace kvf {

// Takes what another store has into one: see kvf_store_import. build: JSON, an object; what it says must be so in the
// description of all that is taken. Throws StoreError.
std::string import_store(const std::string & path,
                         const std::string & from,
                         uint64_t            max_bytes,
                         const std::string & build);

} // namespace kvf
