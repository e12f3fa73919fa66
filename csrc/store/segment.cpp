#include "store/segment.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>

namespace kvf {

namespace {

// raised whenever anything of the form below changes; it is a part of what a shelf is named after, too
constexpr uint32_t FORM = 1;

constexpr char MAGIC[8] = { 'K', 'V', 'F', 'O', 'R', 'K', 'S', '\n' };

// In the machine's own order of bytes: with another one, the magic number of the form is another.
struct Head {
    char     magic[8];
    uint32_t form;
    uint32_t is_whole;
    uint8_t  shelf[32];
    uint8_t  parent[32];
    uint8_t  name[32];
    uint32_t begin;
    uint32_t n_tokens;
    uint64_t n_payload;
    uint64_t payload_sum;
    uint64_t head_sum; // of all above, and of the tokens, which follow
};

static_assert(sizeof(Head) == 16 + 96 + 32, "it is written as it is");

constexpr size_t SUMMED = offsetof(Head, head_sum);

uint64_t seed_of(const Digest & name) {
    uint64_t seed;
    std::memcpy(&seed, name.data(), sizeof(seed));
    return seed;
}

uint64_t head_sum(const Head & head, const std::vector<llama_token> & tokens) {
    return checksum(tokens.data(), tokens.size() * sizeof(tokens[0]), checksum(&head, SUMMED, 0));
}

class File {
  public:
    File(const std::string & path, int flags)
        : path_(path), fd_(::open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW, 0600)) {
        if (fd_ < 0) {
            throw system_error(path, errno);
        }
    }

    ~File() {
        if (fd_ >= 0) {
            ::close(fd_);
        }
    }

    File(const File &)             = delete;
    File & operator=(const File &) = delete;

    int fd() const { return fd_; }

    size_t size() const {
        struct stat info;
        if (::fstat(fd_, &info) != 0) {
            throw system_error(path_, errno);
        }
        return static_cast<size_t>(info.st_size);
    }

    void read(void * to, size_t n) const {
        for (auto * p = static_cast<uint8_t *>(to); n > 0;) {
            const ssize_t got = ::read(fd_, p, std::min<size_t>(n, 1 << 30));
            if (got < 0 && errno == EINTR) {
                continue;
            }
            if (got < 0) {
                throw system_error(path_, errno);
            }
            if (got == 0) {
                throw DamagedError(path_ + ": ends too soon");
            }
            p += got;
            n -= static_cast<size_t>(got);
        }
    }

    void write(const void * from, size_t n) const {
        for (auto * p = static_cast<const uint8_t *>(from); n > 0;) {
            const ssize_t put = ::write(fd_, p, std::min<size_t>(n, 1 << 30));
            if (put < 0 && errno == EINTR) {
                continue;
            }
            if (put < 0) {
                throw system_error(path_, errno);
            }
            p += put;
            n -= static_cast<size_t>(put);
        }
    }

    void finish() {
        if (::fsync(fd_) != 0) {
            throw system_error(path_, errno);
        }
        const int fd = fd_;
        fd_          = -1;
        if (::close(fd) != 0) {
            throw system_error(path_, errno);
        }
    }

  private:
    std::string path_;
    int         fd_;
};

// the head of a file and what it is about, if all of it fits together
Head read_head(const File & file, const std::string & path, Segment & out) {
    Head head;
    file.read(&head, sizeof(head));
    if (std::memcmp(head.magic, MAGIC, sizeof(MAGIC)) != 0) {
        throw DamagedError(path + ": is no file of the store");
    }
    if (head.form != FORM) {
        throw DamagedError(path + ": has form " + std::to_string(head.form) + ", not " + std::to_string(FORM));
    }
    const size_t n = file.size();
    if (head.n_tokens == 0 || head.n_tokens > n / sizeof(llama_token) || head.is_whole > 1 ||
        head.begin > std::numeric_limits<int32_t>::max() - head.n_tokens || head.n_payload > n ||
        n != sizeof(head) + head.n_tokens * sizeof(llama_token) + head.n_payload) {
        throw DamagedError(path + ": has not the size that it ought to have");
    }
    out.is_whole = head.is_whole;
    out.begin    = head.begin;
    std::memcpy(out.shelf.data(), head.shelf, sizeof(head.shelf));
    std::memcpy(out.parent.data(), head.parent, sizeof(head.parent));
    out.tokens.resize(head.n_tokens);
    file.read(out.tokens.data(), head.n_tokens * sizeof(llama_token));

    const Digest name = out.name();
    if (head_sum(head, out.tokens) != head.head_sum || std::memcmp(name.data(), head.name, name.size()) != 0) {
        throw DamagedError(path + ": its beginning was changed");
    }
    return head;
}

} // namespace

Digest Segment::name() const {
    return Sha256()
        .add(FORM)
        .add(shelf)
        .add(parent)
        .add(begin)
        .add(static_cast<uint64_t>(is_whole))
        .add(tokens.size())
        .add(tokens.data(), tokens.size() * sizeof(tokens[0]))
        .digest();
}

std::string Segment::file_name() const {
    char end_text[16];
    std::snprintf(end_text, sizeof(end_text), "%08u-", end());
    return end_text + to_hex(name()) + ".kv";
}

size_t file_size(const Segment & segment, size_t n_payload) {
    return sizeof(Head) + segment.tokens.size() * sizeof(llama_token) + n_payload;
}

uint32_t end_of_file_name(const std::string & file_name) {
    const size_t dash = file_name.find('-');
    if (dash < 8 || dash > 10 || file_name.size() != dash + 1 + 64 + 3 ||
        file_name.compare(file_name.size() - 3, 3, ".kv") != 0 || file_name.find_first_not_of("0123456789") != dash ||
        file_name.find_first_not_of("0123456789abcdef", dash + 1) != file_name.size() - 3) {
        return 0;
    }
    return static_cast<uint32_t>(std::stoul(file_name.substr(0, dash)));
}

void write_segment(const std::string & path, const Segment & segment, const Payload & payload) {
    const Digest name = segment.name();

    Head head = {};
    std::memcpy(head.magic, MAGIC, sizeof(MAGIC));
    head.form     = FORM;
    head.is_whole = segment.is_whole;
    std::memcpy(head.shelf, segment.shelf.data(), sizeof(head.shelf));
    std::memcpy(head.parent, segment.parent.data(), sizeof(head.parent));
    std::memcpy(head.name, name.data(), sizeof(head.name));
    head.begin       = segment.begin;
    head.n_tokens    = static_cast<uint32_t>(segment.tokens.size());
    head.n_payload   = payload.size;
    head.payload_sum = checksum(payload.data.get(), payload.size, seed_of(name));
    head.head_sum    = head_sum(head, segment.tokens);

    File file(path, O_WRONLY | O_CREAT | O_EXCL);
    if (::fchmod(file.fd(), 0600) != 0) { // whatever the umask leaves out
        throw system_error(path, errno);
    }
    file.write(&head, sizeof(head));
    file.write(segment.tokens.data(), segment.tokens.size() * sizeof(segment.tokens[0]));
    file.write(payload.data.get(), payload.size);
    file.finish();
}

Segment read_segment(const std::string & path) {
    const File file(path, O_RDONLY);
    Segment    segment;
    read_head(file, path, segment);
    return segment;
}

Payload read_payload(const std::string & path, const Segment & segment) {
    const File file(path, O_RDONLY);
    Segment    found;
    const Head head = read_head(file, path, found);
    const auto name = segment.name();
    if (std::memcmp(head.name, name.data(), name.size()) != 0) {
        throw DamagedError(path + ": is about other tokens than its name says");
    }
    Payload payload(head.n_payload);
    file.read(payload.data.get(), payload.size);
    if (checksum(payload.data.get(), payload.size, seed_of(name)) != head.payload_sum) {
        throw DamagedError(path + ": its contents were changed");
    }
    return payload;
}

StoreError system_error(const std::string & what, int error) {
    return StoreError(what + ": " + std::strerror(error));
}

} // namespace kvf
