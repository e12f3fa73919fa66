#pragma once

#include <cstdint>
#include <string>

namespace kvf {

// What is in a store, for people: see kvf_store_list and kvf_store_prune. They throw StoreError, also if there is no store.
std::string list_store(const std::string & path, bool verify);
std::string prune_store(const std::string & path, uint64_t max_bytes);

} // namespace kvf
