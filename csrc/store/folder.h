#pragma once

#include "store/digest.h"
#include "store/segment.h"

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

namespace kvf {

// The folder of a store, which several processes may use at the same time. It has a subfolder for each shelf. A file is
// written once, under a temporary name, and after its renaming only read, touched and removed.
//
// A process holds the lock while it writes or makes room. Readers need no lock: a file that disappears counts as one that
// never existed. The system releases the lock of a process that dies, so a temporary file belongs to nobody once somebody
// else holds the lock.
//
// Every method throws StoreError if the system refuses.
class Folder {
  public:
    struct File {
        std::string path;
        std::string shelf; // the subfolder that it is in; "" for none
        std::string name;
        uint64_t    n_bytes;
        int64_t     used; // when it was last used, in nanoseconds
    };

    // one holder at a time among all processes
    class Lock {
      public:
        explicit Lock(const Folder & folder);
        ~Lock();

        Lock(const Lock &)             = delete;
        Lock & operator=(const Lock &) = delete;

      private:
        int fd_;
    };

    // Opens the folder, or makes it for this process's user only. Refuses a folder that others can write to, since they could
    // put anything into it.
    explicit Folder(std::string path);

    // Opens a folder that exists, for callers that only look.
    static Folder existing(const std::string & path);

    const std::string & path() const { return path_; }

    std::string shelf_path(const Digest & shelf) const { return path_ + "/" + to_hex(shelf); }

    // makes the subfolder of a shelf, with a file that describes it
    void make_shelf(const Digest & shelf, const std::string & description) const;

    // the contents of that file; "" if it is missing, or is nothing that make_shelf can have written: a pipe, a gigabyte
    std::string description_of(const std::string & shelf) const;

    // Removes temporary files; the lock must be held.
    void clean() const { clean(files()); }

    // Makes room for a segment, writes it, and returns when it is on the disk; false if there is no room without removing the
    // files in kept, which it continues. The lock must be held.
    bool write(const Segment &               segment,
               const Payload &               payload,
               uint64_t                      max_bytes,
               const std::set<std::string> & kept) const;

    // Removes the least recently used files, of equal ones those with the later tokens, until all files together have at most
    // max_bytes; false, and nothing is removed, if that is not possible. The lock must be held.
    bool make_room(uint64_t max_bytes, const std::set<std::string> & kept) const {
        return make_room(files(), max_bytes, kept);
    }

    std::vector<File> files() const;

    // notes that a file was used at this time
    static void    touch(const std::string & path, int64_t when) noexcept;
    static int64_t now();

    // false if it did not exist
    static bool remove(const std::string & path);

  private:
    static void clean(const std::vector<File> & files);
    static bool make_room(std::vector<File> files, uint64_t max_bytes, const std::set<std::string> & kept);

    std::string path_;
};

} // namespace kvf
