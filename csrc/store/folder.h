#pragma once

#include "store/digest.h"
#include "store/segment.h"

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

namespace kvf {

// The folder of a store, which several processes may use at a time: folders in it, one for each shelf, with files that are
// written once, under another name, and then only read, touched and removed.
//
// Who writes or makes room holds a lock meanwhile, and nobody else needs one: a file that is gone is as good as one that
// never was. A process that dies lets go of the lock, so what is half written when somebody has it is nobody's any more.
//
// Every method throws StoreError where the system refuses.
class Folder {
  public:
    struct File {
        std::string path;
        std::string shelf; // the folder that it is in; "" if in none
        std::string name;
        uint64_t    n_bytes;
        int64_t     used; // when it was last of use, in nanoseconds
    };

    // one at a time, over all processes
    class Lock {
      public:
        explicit Lock(const Folder & folder);
        ~Lock();

        Lock(const Lock &)             = delete;
        Lock & operator=(const Lock &) = delete;

      private:
        int fd_;
    };

    // Makes it if it is not there, for this process's user only. It refuses a folder that others can write to, who could put
    // anything there.
    explicit Folder(std::string path);

    // One that is there: looking must not make one.
    static Folder existing(const std::string & path);

    const std::string & path() const { return path_; }

    std::string shelf_path(const Digest & shelf) const { return path_ + "/" + to_hex(shelf); }

    // a folder for a shelf, with a file that says what it is
    void make_shelf(const Digest & shelf, const std::string & description) const;

    // Removes what was half written; the lock must be held.
    void clean() const { clean(files()); }

    // Writes a segment, after what had to go for it, and returns when it is on the disk; false if there is no room for it: what
    // it is of use for (kept) does not go. The lock must be held.
    bool write(const Segment &               segment,
               const Payload &               payload,
               uint64_t                      max_bytes,
               const std::set<std::string> & kept) const;

    // Removes the files that were of use the longest ago, of equal ones those with the later tokens, until all files together
    // have no more than max_bytes; false, and none goes, if that cannot be. The lock must be held.
    bool make_room(uint64_t max_bytes, const std::set<std::string> & kept) const {
        return make_room(files(), max_bytes, kept);
    }

    std::vector<File> files() const;

    // it is of use now, or was then
    static void    touch(const std::string & path, int64_t when) noexcept;
    static int64_t now();

    // false if it was not there
    static bool remove(const std::string & path);

  private:
    static void clean(const std::vector<File> & files);
    static bool make_room(std::vector<File> files, uint64_t max_bytes, const std::set<std::string> & kept);

    std::string path_;
};

} // namespace kvf
