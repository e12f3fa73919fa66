// A store's files. The input is a file as a stranger may have left it, or, of an even first byte, one with the right sums: then
// what was written is read, and with one bit changed it is damaged.

#include "fuzz.h"
#include "store/segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

using kvf::Payload;
using kvf::Segment;

namespace {

const std::string & folder() {
    static const std::string path = [] {
        char name[] = "/tmp/kvfork-fuzz-XXXXXX";
        CHECK(mkdtemp(name));
        return std::string(name);
    }();
    return path;
}

void put(const std::string & path, const uint8_t * data, size_t size) {
    std::FILE * file = std::fopen(path.c_str(), "wb");
    CHECK(file && std::fwrite(data, 1, size, file) == size && std::fclose(file) == 0);
}

std::string contents(const std::string & path) {
    std::FILE * file = std::fopen(path.c_str(), "rb");
    CHECK(file);
    std::string out;
    char        buffer[4096];
    for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, file)) > 0;) {
        out.append(buffer, n);
    }
    std::fclose(file);
    return out;
}

bool is_read(const std::string & path, const Segment * expected) {
    try {
        const Segment found   = kvf::read_segment(path);
        const Payload payload = kvf::read_payload(path, expected ? *expected : found);
        CHECK(kvf::file_size(found, payload.size) == contents(path).size());
        CHECK(kvf::end_of_file_name(found.file_name()) == found.end());
        return true;
    } catch (const kvf::DamagedError & error) {
        CHECK(*error.what());
        return false;
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    const std::string path = folder() + "/file";
    if (size < 48 || data[0] % 2) {
        put(path, data, size);
        is_read(path, nullptr);
        kvf::end_of_file_name(std::string(reinterpret_cast<const char *>(data), size));
        return 0;
    }
    const size_t n_tokens = 3 + data[1] % 8; // of which the first ten bytes are the input's
    Segment      segment;
    std::memcpy(segment.shelf.data(), data + 2, 16);
    std::memcpy(segment.parent.data(), data + 18, 16);
    std::memcpy(&segment.begin, data + 34, 3);
    segment.is_whole = data[37] % 2;
    segment.tokens.resize(n_tokens);
    std::memcpy(segment.tokens.data(), data + 38, 10);
    Payload payload(size - 48);
    std::memcpy(payload.data.get(), data + 48, payload.size);

    ::unlink(path.c_str());
    kvf::write_segment(path, segment, payload);
    CHECK(is_read(path, &segment));

    std::string  bytes = contents(path);
    const size_t place = (data[40] + 256 * data[41]) % bytes.size();
    bytes[place]       = static_cast<char>(bytes[place] ^ (1 << data[42] % 8));
    put(path, reinterpret_cast<const uint8_t *>(bytes.data()), bytes.size());
    CHECK(!is_read(path, &segment));
    return 0;
}
