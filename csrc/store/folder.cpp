#include "store/folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <memory>
#include <tuple>

namespace kvf {

namespace {

const std::string LOCK        = "lock";
const std::string DESCRIPTION = "about.json";
const std::string UNFINISHED  = ".part";

constexpr size_t MAX_DESCRIPTION = size_t(1) << 20; // a description has some hundred bytes

bool ends_with(const std::string & text, const std::string & end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

std::vector<std::string> names_in(const std::string & path) {
    const std::unique_ptr<DIR, int (*)(DIR *)> dir(::opendir(path.c_str()), ::closedir);
    if (!dir) {
        throw system_error(path, errno);
    }
    std::vector<std::string> names;
    while (const dirent * entry = ::readdir(dir.get())) {
        const std::string name = entry->d_name;
        if (name != "." && name != "..") {
            names.push_back(name);
        }
    }
    return names;
}

// false if it is there already
bool make_folder(const std::string & path) {
    if (::mkdir(path.c_str(), 0700) == 0) {
        if (::chmod(path.c_str(), 0700) != 0) { // whatever the umask leaves out
            throw system_error(path, errno);
        }
        return true;
    }
    if (errno != EEXIST) {
        throw system_error(path, errno);
    }
    return false;
}

void make_folders(const std::string & path) {
    const size_t slash = path.find_last_of('/');
    if (slash != std::string::npos && slash > 0 && ::access(path.substr(0, slash).c_str(), F_OK) != 0) {
        make_folders(path.substr(0, slash));
    }
    make_folder(path);
}

void sync_folder(const std::string & path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        throw system_error(path, errno);
    }
    const int  error  = ::fsync(fd) == 0 ? 0 : errno;
    const bool failed = error != 0 && error != EINVAL; // some file systems cannot, and need not
    ::close(fd);
    if (failed) {
        throw system_error(path, error);
    }
}

int64_t ns_of(const timespec & time) {
    return static_cast<int64_t>(time.tv_sec) * 1000000000 + time.tv_nsec;
}

const timespec & time_of(const struct stat & info) {
#if defined(__APPLE__)
    return info.st_mtimespec;
#else
    return info.st_mtim;
#endif
}

} // namespace

Folder::Lock::Lock(const Folder & folder) {
    const std::string path = folder.path_ + "/" + LOCK;
    fd_                    = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd_ < 0) {
        throw system_error(path, errno);
    }
    int failed;
    do {
        failed = ::flock(fd_, LOCK_EX);
    } while (failed != 0 && errno == EINTR);
    if (failed != 0) {
        const int error = errno;
        ::close(fd_);
        throw system_error(path, error);
    }
}

Folder::Lock::~Lock() {
    ::close(fd_); // which lets go of it
}

Folder::Folder(std::string path) : path_(std::move(path)) {
    while (path_.size() > 1 && path_.back() == '/') {
        path_.pop_back();
    }
    struct stat info;
    if (::stat(path_.c_str(), &info) != 0) {
        if (errno != ENOENT) {
            throw system_error(path_, errno);
        }
        make_folders(path_);
        if (::stat(path_.c_str(), &info) != 0) {
            throw system_error(path_, errno);
        }
    }
    if (!S_ISDIR(info.st_mode)) {
        throw system_error(path_, ENOTDIR);
    }
    if ((info.st_mode & (S_IWGRP | S_IWOTH)) != 0 || (info.st_uid != ::geteuid() && info.st_uid != 0)) {
        throw StoreError(path_ +
                         ": others can write to it, so what is in it cannot be trusted: chmod 700 it, or name another");
    }
}

Folder Folder::existing(const std::string & path) {
    struct stat info;
    if (::stat(path.c_str(), &info) != 0) {
        throw system_error(path, errno);
    }
    return Folder(path);
}

void Folder::make_shelf(const Digest & shelf, const std::string & description) const {
    const std::string path = shelf_path(shelf);
    make_folder(path);
    const std::string about = path + "/" + DESCRIPTION;
    if (::access(about.c_str(), F_OK) == 0) {
        return;
    }
    const std::string unfinished = about + UNFINISHED;
    const int         fd = ::open(unfinished.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        throw system_error(unfinished, errno);
    }
    const bool written = ::fchmod(fd, 0600) == 0 && ::write(fd, description.data(), description.size()) ==
                                                        static_cast<ssize_t>(description.size());
    const int error = errno;
    ::close(fd);
    if (!written || ::rename(unfinished.c_str(), about.c_str()) != 0) {
        throw system_error(unfinished, written ? errno : error);
    }
}

std::string Folder::description_of(const std::string & shelf) const {
    const std::string path = path_ + "/" + shelf + "/" + DESCRIPTION;
    const int         fd   = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) {
        return "";
    }
    std::string out;
    struct stat info;
    if (::fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && static_cast<size_t>(info.st_size) <= MAX_DESCRIPTION) {
        out.resize(static_cast<size_t>(info.st_size));
        out.resize(static_cast<size_t>(std::max<ssize_t>(::read(fd, out.data(), out.size()), 0)));
    }
    ::close(fd);
    return out;
}

void Folder::clean(const std::vector<File> & files) {
    for (const File & file : files) {
        if (ends_with(file.name, UNFINISHED)) {
            remove(file.path);
        }
    }
}

bool Folder::write(const Segment &               segment,
                   const Payload &               payload,
                   uint64_t                      max_bytes,
                   const std::set<std::string> & kept) const {
    const uint64_t    n_bytes = file_size(segment, payload.size);
    std::vector<File> there   = files();
    clean(there);
    if (n_bytes > max_bytes || !make_room(std::move(there), max_bytes - n_bytes, kept)) {
        return false;
    }
    const std::string shelf      = shelf_path(segment.shelf);
    const std::string path       = shelf + "/" + segment.file_name();
    const std::string unfinished = path + UNFINISHED;
    try {
        write_segment(unfinished, segment, payload);
        // what has its name is whole, also after a power failure: the data is on the disk before the name is
        if (::rename(unfinished.c_str(), path.c_str()) != 0) {
            throw system_error(path, errno);
        }
    } catch (const StoreError &) {
        ::unlink(unfinished.c_str());
        throw;
    }
    sync_folder(shelf);
    return true;
}

bool Folder::make_room(std::vector<File> files, uint64_t max_bytes, const std::set<std::string> & kept) {
    uint64_t          n_bytes = 0;
    std::vector<File> may_go;
    for (File & file : files) {
        n_bytes += ends_with(file.name, UNFINISHED) ? 0 : file.n_bytes; // those have gone
        if (end_of_file_name(file.name) > 0 && kept.count(file.path) == 0) {
            may_go.push_back(std::move(file));
        }
    }
    std::sort(may_go.begin(), may_go.end(), [](const File & a, const File & b) {
        return std::make_tuple(a.used, -static_cast<int64_t>(end_of_file_name(a.name)), a.path) <
               std::make_tuple(b.used, -static_cast<int64_t>(end_of_file_name(b.name)), b.path);
    });
    size_t n_go = 0;
    while (n_bytes > max_bytes && n_go < may_go.size()) {
        n_bytes -= may_go[n_go++].n_bytes;
    }
    if (n_bytes > max_bytes) {
        return false;
    }
    for (size_t i = 0; i < n_go; ++i) {
        remove(may_go[i].path);
    }
    return true;
}

std::vector<Folder::File> Folder::files() const {
    std::vector<File> out;

    const auto add = [&](const std::string & folder, const std::string & shelf, const std::string & name) {
        const std::string path = folder + "/" + name;
        struct stat       info;
        if (::lstat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode)) {
            out.push_back({ path, shelf, name, static_cast<uint64_t>(info.st_size), ns_of(time_of(info)) });
            return true;
        }
        return false; // a folder, or it has just gone
    };
    for (const std::string & name : names_in(path_)) {
        if (add(path_, "", name) || name.size() != 64 || name.find_first_not_of("0123456789abcdef") != name.npos) {
            continue;
        }
        std::vector<std::string> inside;
        try {
            inside = names_in(path_ + "/" + name);
        } catch (const StoreError &) {
            continue; // a process that prunes has just removed it
        }
        for (const std::string & file : inside) {
            add(path_ + "/" + name, name, file);
        }
    }
    return out;
}

void Folder::touch(const std::string & path, int64_t when) noexcept {
    const timespec time     = { static_cast<time_t>(when / 1000000000), static_cast<long>(when % 1000000000) };
    const timespec times[2] = { time, time };
    ::utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW); // in a store that is only read, nothing is removed
}

int64_t Folder::now() {
    timespec time;
    ::clock_gettime(CLOCK_REALTIME, &time);
    return ns_of(time);
}

bool Folder::remove(const std::string & path) {
    if (::unlink(path.c_str()) == 0) {
        return true;
    }
    if (errno != ENOENT) {
        throw system_error(path, errno);
    }
    return false;
}

} // namespace kvf
