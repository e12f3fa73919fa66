#pragma once

#include "nlohmann/json_fwd.hpp"

#include <cstdint>
#include <string>

namespace kvf {

// What is in a store, for people: see kvf_store_list and kvf_store_prune. They throw StoreError, also if there is no store.
std::string list_store(const std::string & path, bool verify);
std::string prune_store(const std::string & path, uint64_t max_bytes);

// A shelf's description, as Folder::description_of returns it; null if it is no JSON. What is nested deeper than any of ours
// is left out: nlohmann's functions call themselves, level by level.
nlohmann::ordered_json read_description(const std::string & text);

} // namespace kvf
