#include "store/inventory.h"

#include "nlohmann/json.hpp"
#include "store/folder.h"
#include "store/segment.h"

#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>

namespace kvf {

namespace {

using json = nlohmann::ordered_json;

// what is wrong with a file, "" if nothing is
std::string damage(const Folder::File & file, bool verify, Segment & segment) {
    try {
        segment = read_segment(file.path);
        if (segment.file_name() != file.name || to_hex(segment.shelf) != file.shelf) {
            return "is about something else than its name says";
        }
        if (verify) {
            read_payload(file.path, segment);
        }
        return "";
    } catch (const StoreError & e) {
        const std::string text  = e.what();
        const std::string start = file.path + ": ";
        return text.compare(0, start.size(), start) == 0 ? text.substr(start.size()) : text;
    }
}

} // namespace

json read_description(const std::string & text) {
    constexpr int MAX_DEPTH = 16;

    const auto is_kept = [](int depth, json::parse_event_t, const json &) { return depth < MAX_DEPTH; };
    json       out     = json::parse(text, is_kept, /* allow_exceptions = */ false);
    return out.is_discarded() ? json() : out;
}

std::string list_store(const std::string & path, bool verify) {
    const Folder                   folder = Folder::existing(path);
    std::map<std::string, json>    shelves;
    std::map<std::string, int64_t> used;

    for (const Folder::File & file : folder.files()) {
        if (file.shelf.empty() || end_of_file_name(file.name) == 0) {
            continue;
        }
        json & shelf = shelves[file.shelf];
        if (shelf.is_null()) {
            const json about = read_description(folder.description_of(file.shelf));
            shelf            = {
                { "shelf", file.shelf },
                { "about", about.is_null() ? json::object() : about },
                { "files", 0 },
                { "tokens", 0 },
                { "bytes", 0 },
                { "used", 0.0 },
                { "damaged", json::array() },
            };
        }
        Segment           segment;
        const std::string wrong = damage(file, verify, segment);
        if (!wrong.empty()) {
            if (::access(file.path.c_str(), F_OK) != 0) {
                continue; // it has just gone
            }
            shelf["damaged"].push_back({ { "file", file.name }, { "why", wrong } });
        }
        shelf["files"]   = shelf["files"].get<uint64_t>() + 1;
        shelf["tokens"]  = shelf["tokens"].get<uint64_t>() + (wrong.empty() ? segment.tokens.size() : 0);
        shelf["bytes"]   = shelf["bytes"].get<uint64_t>() + file.n_bytes;
        used[file.shelf] = std::max(used[file.shelf], file.used);
        shelf["used"]    = static_cast<double>(used[file.shelf]) / 1e9;
    }
    json out = json::array();
    for (auto & [name, shelf] : shelves) {
        out.push_back(std::move(shelf));
    }
    return out.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string prune_store(const std::string & path, uint64_t max_bytes) {
    const Folder       folder = Folder::existing(path);
    const Folder::Lock mine(folder);

    const auto total = [&](size_t & n_files) {
        uint64_t n_bytes = 0;
        n_files          = 0;
        for (const Folder::File & file : folder.files()) {
            n_bytes += file.n_bytes;
            n_files += end_of_file_name(file.name) > 0;
        }
        return n_bytes;
    };
    size_t         n_before     = 0;
    const uint64_t bytes_before = total(n_before);

    folder.clean();
    struct Found {
        std::string path;
        Digest      parent;
    };
    std::map<Digest, Found> found;
    for (const Folder::File & file : folder.files()) {
        if (end_of_file_name(file.name) == 0) {
            continue;
        }
        Segment segment;
        if (!damage(file, /* verify = */ true, segment).empty()) {
            Folder::remove(file.path);
            continue;
        }
        found[segment.name()] = { file.path, segment.parent };
    }
    for (bool changed = true; changed;) { // what had its way through those goes, too
        changed = false;
        for (auto it = found.begin(); it != found.end();) {
            const bool is_led_to = it->second.parent == Digest{} || found.count(it->second.parent) > 0;
            changed              = changed || !is_led_to;
            if (!is_led_to) {
                Folder::remove(it->second.path);
            }
            it = is_led_to ? std::next(it) : found.erase(it);
        }
    }
    uint64_t n_other = 0; // what is no segment stays: it is small
    for (const Folder::File & file : folder.files()) {
        n_other += end_of_file_name(file.name) > 0 ? 0 : file.n_bytes;
    }
    folder.make_room(std::max(max_bytes, n_other), {});

    // folders of models that nothing is left of
    std::set<std::string> shelves;
    std::set<std::string> in_use;
    for (const Folder::File & file : folder.files()) {
        if (!file.shelf.empty()) {
            shelves.insert(file.shelf);
            if (end_of_file_name(file.name) > 0) {
                in_use.insert(file.shelf);
            }
        }
    }
    for (const std::string & shelf : shelves) {
        if (in_use.count(shelf) == 0) {
            Folder::remove(folder.path() + "/" + shelf + "/about.json");
            ::rmdir((folder.path() + "/" + shelf).c_str()); // unless somebody has just put something there
        }
    }
    size_t         n_after     = 0;
    const uint64_t bytes_after = total(n_after);
    return json{
        { "files", n_before - std::min(n_before, n_after) },
        { "bytes", bytes_before - std::min(bytes_before, bytes_after) },
    }
        .dump();
}

} // namespace kvf
