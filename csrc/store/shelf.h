#pragma once

#include "store/folder.h"
#include "store/segment.h"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace kvf {

// The name of a shelf: a digest of its description, which has everything the numbers depend on, and of the namespace.
Digest shelf_id(const Digest & fingerprint, const std::string & name_space);

// The segments that a store has for one model, one set of parameters and one namespace, as a tree: each follows its parent.
// It is as fresh as the last look at the folder.
class Shelf {
  public:
    // the part of a segment that a prompt can use
    struct Piece {
        Segment segment;
        size_t  n; // how many of its tokens, from the first on
    };

    Shelf(const Folder & folder, const Digest & id);

    // Looks into the folder if it has changed. Removes damaged files and returns a sentence about them, "" if there are none.
    // Throws StoreError.
    std::string refresh();

    // the longest stored prefix of some tokens, of at most n_max tokens, piece by piece
    std::vector<Piece> find(const std::vector<llama_token> & tokens, size_t n_max) const;

    // whether another segment contains this one
    bool covers(const Segment & segment) const;

    void add(const Segment & segment);
    void forget(const Segment & segment);

    // the segments that this one contains
    std::vector<Segment> covered_by(const Segment & segment) const;

    bool has(const Digest & name) const { return file_of_.count(name) > 0; }

    // the files of the segments before this one
    std::vector<std::string> paths_before(const Segment & segment) const;

    // What is wrong with its index, as a sentence; "" if nothing is.
    std::string fault() const;

    std::string path(const Segment & segment) const { return path_ + "/" + segment.file_name(); }

    const Digest & id() const { return id_; }

  private:
    friend struct Tampering;

    struct Entry {
        Segment segment;
        Digest  name;
    };

    void forget(const std::string & file_name);

    std::string                           path_;
    Digest                                id_;
    int64_t                               seen_ = -1; // the folder's time of change at the last look
    std::map<std::string, Entry>          files_;     // by file name
    std::multimap<Digest, const Entry *>  children_;  // by parent
    std::map<Digest, const std::string *> file_of_;   // by name
};

} // namespace kvf
