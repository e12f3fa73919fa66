#pragma once

#include "store/folder.h"
#include "store/segment.h"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace kvf {

// What a shelf is named after: all that its numbers depend on, as a digest of its description, and the namespace.
Digest shelf_id(const Digest & fingerprint, const std::string & name_space);

// What lies in a store for one model, one set of parameters and one namespace: which segments there are, and how they follow
// one another. It knows what was there when it last looked.
class Shelf {
  public:
    // some tokens of a prompt that a segment has
    struct Piece {
        Segment segment;
        size_t  n; // of its tokens, from the first on
    };

    Shelf(const Folder & folder, const Digest & id);

    // Looks into the folder, if anything changed there. Files that are damaged are removed; returns what there is to say of
    // it, "" if nothing. Throws StoreError.
    std::string refresh();

    // the longest beginning of some tokens that is there, at most n_max tokens: piece by piece
    std::vector<Piece> find(const std::vector<llama_token> & tokens, size_t n_max) const;

    // whether some segment has all that this one has
    bool covers(const Segment & segment) const;

    void add(const Segment & segment);
    void forget(const Segment & segment);

    // those that a segment makes superfluous, since it has all that they have, and more
    std::vector<Segment> covered_by(const Segment & segment) const;

    bool has(const Digest & name) const { return file_of_.count(name) > 0; }

    // the files of those before a segment
    std::vector<std::string> paths_before(const Segment & segment) const;

    std::string path(const Segment & segment) const { return path_ + "/" + segment.file_name(); }

    const Digest & id() const { return id_; }

  private:
    struct Entry {
        Segment segment;
        Digest  name;
    };

    void forget(const std::string & file_name);

    std::string                           path_;
    Digest                                id_;
    int64_t                               seen_ = -1; // when the folder was changed that was looked into
    std::map<std::string, Entry>          files_;     // by file name
    std::multimap<Digest, const Entry *>  children_;  // by parent
    std::map<Digest, const std::string *> file_of_;   // by name
};

} // namespace kvf
