#include "store/import.h"

#include "nlohmann/json.hpp"
#include "store/folder.h"
#include "store/inventory.h"
#include "store/segment.h"
#include "store/shelf.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

namespace kvf {

namespace {

using json = nlohmann::ordered_json;

std::string text_of(const json & object, int indent) {
    return object.dump(indent, ' ', false, json::error_handler_t::replace);
}

// A shelf of the store that things are taken from.
struct Source {
    json        about;
    std::string why_not; // nothing of it can be taken; "": it can
};

Source source_of(const Folder & from, const std::string & shelf, const json & build) {
    Source out;
    out.about = read_description(from.description_of(shelf));
    if (!out.about.is_object() || !out.about.contains("namespace") || !out.about["namespace"].is_string()) {
        out.why_not = "nothing says what it was computed with: about.json is missing or damaged";
        return out;
    }
    json description = out.about; // what the shelf is named after
    description.erase("namespace");
    description.erase("name");
    const Digest id =
        shelf_id(Sha256().add(text_of(description, -1)).digest(), out.about["namespace"].get<std::string>());
    if (to_hex(id) != shelf) {
        out.why_not = "it was computed with something else than about.json says";
        return out;
    }
    for (const auto & [name, here] : build.items()) {
        const json there = description.contains(name) ? description[name] : json();
        if (there != here) {
            out.why_not = "no prompt would find it here: its " + name + " is " + text_of(there, -1) + ", here it is " +
                          text_of(here, -1);
            return out;
        }
    }
    return out;
}

} // namespace

std::string import_store(const std::string & path,
                         const std::string & from,
                         uint64_t            max_bytes,
                         const std::string & build) {
    const Folder              source = Folder::existing(from);
    std::vector<Folder::File> files  = source.files();
    std::sort(files.begin(), files.end(), [](const auto & a, const auto & b) { // those before come before
        return std::make_pair(end_of_file_name(a.name), a.path) < std::make_pair(end_of_file_name(b.name), b.path);
    });
    const json                    here = json::parse(build);
    const Folder                  to(path);
    std::map<std::string, Source> sources; // by shelf
    std::map<std::string, Shelf>  shelves;

    size_t   n_files  = 0;
    size_t   n_known  = 0;
    uint64_t n_tokens = 0;
    uint64_t n_bytes  = 0;
    json     refused  = json::array();

    // returns why it is not taken, "" if it is there now
    const auto take = [&](const Folder::File & file) -> std::string {
        if (sources.count(file.shelf) == 0) {
            sources[file.shelf] = source_of(source, file.shelf, here);
        }
        const Source & shelf_there = sources[file.shelf];
        if (!shelf_there.why_not.empty()) {
            return shelf_there.why_not;
        }
        const Segment segment = read_segment(file.path);
        if (segment.file_name() != file.name || to_hex(segment.shelf) != file.shelf) {
            return "is about something else than its name says";
        }
        const Payload payload = read_payload(file.path, segment);

        const Folder::Lock mine(to);
        to.make_shelf(segment.shelf, text_of(shelf_there.about, 1) + "\n");
        Shelf & shelf = shelves.try_emplace(file.shelf, to, segment.shelf).first->second;
        shelf.refresh();
        const std::vector<std::string> before = shelf.paths_before(segment);
        if (segment.parent != Digest{} && before.empty()) {
            return "what comes before it is not there";
        }
        if (shelf.covers(segment)) {
            ++n_known;
            return "";
        }
        if (!to.write(segment, payload, max_bytes, { before.begin(), before.end() })) {
            return "the store has no room for it: it may have " + std::to_string(max_bytes) + " bytes";
        }
        shelf.add(segment);
        Folder::touch(shelf.path(segment), Folder::now());
        for (const Segment & other : shelf.covered_by(segment)) {
            Folder::remove(shelf.path(other));
            shelf.forget(other);
        }
        ++n_files;
        n_tokens += segment.tokens.size();
        n_bytes += file_size(segment, payload.size);
        return "";
    };
    for (const Folder::File & file : files) {
        if (file.shelf.empty() || end_of_file_name(file.name) == 0) {
            continue;
        }
        std::string why_not;
        try {
            why_not = take(file);
        } catch (const DamagedError & e) {
            const std::string text  = e.what();
            const std::string start = file.path + ": ";
            why_not                 = text.compare(0, start.size(), start) == 0 ? text.substr(start.size()) : text;
        }
        if (!why_not.empty()) {
            refused.push_back({ { "file", file.shelf + "/" + file.name }, { "why", why_not } });
        }
    }
    return text_of(
        json{
            { "files", n_files },
            { "tokens", n_tokens },
            { "bytes", n_bytes },
            { "known", n_known },
            { "refused", std::move(refused) },
        },
        -1);
}

} // namespace kvf
