#include "store/shelf.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <set>

namespace kvf {

namespace {

size_t n_common(const Segment & segment, const std::vector<llama_token> & tokens, size_t n_max) {
    const size_t n     = std::min(n_max, tokens.size());
    const size_t begin = segment.begin;
    if (begin >= n) {
        return 0;
    }
    const size_t n_cmp = std::min(segment.tokens.size(), n - begin);
    return std::mismatch(segment.tokens.begin(), segment.tokens.begin() + n_cmp, tokens.begin() + begin).first -
           segment.tokens.begin();
}

} // namespace

Digest shelf_id(const Digest & fingerprint, const std::string & name_space) {
    return Sha256().add(fingerprint).add(name_space).digest();
}

Shelf::Shelf(const Folder & folder, const Digest & id) : path_(folder.shelf_path(id)), id_(id) {}

std::string Shelf::refresh() {
    struct stat info;
    if (::stat(path_.c_str(), &info) != 0) {
        if (errno != ENOENT) {
            throw system_error(path_, errno);
        }
        children_.clear();
        file_of_.clear();
        files_.clear();
        seen_ = -1;
        return "";
    }
#if defined(__APPLE__)
    const timespec time = info.st_mtimespec;
#else
    const timespec time = info.st_mtim;
#endif
    const int64_t changed = static_cast<int64_t>(time.tv_sec) * 1000000000 + time.tv_nsec;
    if (changed == seen_) {
        return "";
    }
    const std::unique_ptr<DIR, int (*)(DIR *)> dir(::opendir(path_.c_str()), ::closedir);
    if (!dir) {
        throw system_error(path_, errno);
    }
    std::set<std::string> now;
    while (const dirent * entry = ::readdir(dir.get())) {
        if (end_of_file_name(entry->d_name) > 0) {
            now.insert(entry->d_name);
        }
    }
    std::vector<std::string> gone;
    for (const auto & [name, entry] : files_) {
        if (now.count(name) == 0) {
            gone.push_back(name);
        }
    }
    for (const std::string & name : gone) {
        forget(name);
    }
    std::string said;
    for (const std::string & name : now) {
        if (files_.count(name) > 0) {
            continue;
        }
        try {
            const Segment segment = read_segment(path_ + "/" + name);
            if (segment.file_name() != name || segment.shelf != id_) {
                throw DamagedError(path_ + "/" + name + ": is about something else than its name says");
            }
            add(segment);
        } catch (const DamagedError & e) {
            said = e.what();
            Folder::remove(path_ + "/" + name);
        } catch (const StoreError &) { // it has just gone, or cannot be read: it is as good as not there
        }
    }
    // a change in the same tick of the clock as this look would not be seen: then the next one looks again
    constexpr int64_t tick = 20 * 1000 * 1000;
    seen_                  = Folder::now() - changed > tick ? changed : -1;
    return said;
}

std::vector<Shelf::Piece> Shelf::find(const std::vector<llama_token> & tokens, size_t n_max) const {
    std::vector<Piece> pieces;
    std::vector<Piece> whole;
    Digest             parent = {};
    for (;;) {
        const auto    range  = children_.equal_range(parent);
        const Entry * best   = nullptr;
        size_t        n_best = 0;
        for (auto it = range.first; it != range.second; ++it) {
            const Segment & segment = it->second->segment;
            const size_t    n       = n_common(segment, tokens, n_max);
            if (segment.is_whole) {
                if (n == segment.tokens.size() && (whole.empty() || n > whole[0].n)) {
                    whole = { { segment, n } };
                }
            } else if (n > n_best || (n == n_best && n > 0 && n == segment.tokens.size())) {
                best   = it->second;
                n_best = n;
            }
        }
        if (!best) {
            break;
        }
        pieces.push_back({ best->segment, n_best });
        if (n_best < best->segment.tokens.size()) {
            break;
        }
        parent = best->name;
    }
    return pieces.empty() ? whole : pieces;
}

bool Shelf::covers(const Segment & segment) const {
    const auto range = children_.equal_range(segment.parent);
    return std::any_of(range.first, range.second, [&](const auto & entry) {
        const Segment & other = entry.second->segment;
        return other.is_whole == segment.is_whole && other.begin == segment.begin &&
               (segment.is_whole ? other.tokens == segment.tokens
                                 : other.tokens.size() >= segment.tokens.size() &&
                                       std::equal(segment.tokens.begin(), segment.tokens.end(), other.tokens.begin()));
    });
}

void Shelf::add(const Segment & segment) {
    const auto [it, is_new] = files_.emplace(segment.file_name(), Entry{ segment, segment.name() });
    if (is_new) {
        children_.emplace(segment.parent, &it->second);
        file_of_[it->second.name] = &it->first;
    }
}

void Shelf::forget(const Segment & segment) {
    forget(segment.file_name());
}

void Shelf::forget(const std::string & file_name) {
    const auto it = files_.find(file_name);
    if (it == files_.end()) {
        return;
    }
    const auto range = children_.equal_range(it->second.segment.parent);
    children_.erase(
        std::find_if(range.first, range.second, [&](const auto & entry) { return entry.second == &it->second; }));
    file_of_.erase(it->second.name);
    files_.erase(it);
}

std::vector<Segment> Shelf::covered_by(const Segment & segment) const {
    std::vector<Segment> out;
    if (segment.is_whole) {
        return out; // a state is of use at its own end only
    }
    const auto range = children_.equal_range(segment.parent);
    for (auto it = range.first; it != range.second; ++it) {
        const Segment & other = it->second->segment;
        if (!other.is_whole && other.begin == segment.begin && other.tokens.size() < segment.tokens.size() &&
            std::equal(other.tokens.begin(), other.tokens.end(), segment.tokens.begin())) {
            out.push_back(other);
        }
    }
    return out;
}

std::string Shelf::fault() const {
    if (children_.size() != files_.size() || file_of_.size() != files_.size()) {
        return "shelf " + to_hex(id_) + " knows " + std::to_string(files_.size()) + " files, " +
               std::to_string(children_.size()) + " of them by their parents and " + std::to_string(file_of_.size()) +
               " by their names";
    }
    for (const auto & [file_name, entry] : files_) {
        const auto file = file_of_.find(entry.name);
        if (entry.segment.shelf != id_ || entry.segment.file_name() != file_name ||
            entry.segment.name() != entry.name || file == file_of_.end() || *file->second != file_name) {
            return "the index has " + path_ + "/" + file_name + " under a name that is not its content's";
        }
        const auto range = children_.equal_range(entry.segment.parent);
        if (std::none_of(range.first, range.second, [&](const auto & child) { return child.second == &entry; })) {
            return "the index does not find " + path_ + "/" + file_name + " after what comes before it";
        }
    }
    return "";
}

std::vector<std::string> Shelf::paths_before(const Segment & segment) const {
    std::vector<std::string> paths;
    for (auto it = file_of_.find(segment.parent); it != file_of_.end();
         it      = file_of_.find(files_.at(*it->second).segment.parent)) {
        paths.push_back(path_ + "/" + *it->second);
    }
    return paths;
}

} // namespace kvf
