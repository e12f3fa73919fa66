// Text: into tokens, out of pieces, and how deep it is nested. The input: stop strings, a line each, and a text.

#include "fuzz.h"
#include "text/nesting.h"
#include "text/text_stream.h"

#include <algorithm>

namespace {

bool is_utf8(const std::string & text) {
    for (size_t i = 0; i < text.size();) {
        const auto   byte = static_cast<uint8_t>(text[i]);
        const size_t n    = byte < 0x80 ? 1 : byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc2 ? 2 : 0;
        if (n == 0 || i + n > text.size()) {
            return false;
        }
        for (size_t j = 1; j < n; ++j) {
            if ((static_cast<uint8_t>(text[i + j]) & 0xc0) != 0x80) {
                return false;
            }
        }
        i += n;
    }
    return true;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    const std::vector<std::string> parts = parts_of(data, size);
    const std::string &            text  = parts.back();
    CHECK(kvf::json_depth(text) <= text.size());
    CHECK(kvf::answer_depth(text) <= text.size());

    std::vector<std::string> stop;
    if (parts.size() > 1) {
        for (size_t begin = 0, end = 0; end < parts[0].size(); begin = end + 1) {
            end = std::min(parts[0].find('\n', begin), parts[0].size());
            if (end > begin) {
                stop.push_back(parts[0].substr(begin, end - begin));
            }
        }
    }
    // in pieces of any length, the same text
    std::string shown[2];
    for (const size_t n : { size_t(1), size_t(7) }) {
        kvf::TextStream stream(stop);
        std::string &   out = shown[n == 7];
        for (size_t i = 0; i < text.size() && !stream.stopped(); i += n) {
            out += stream.push(text.substr(i, n));
            CHECK(is_utf8(out));
        }
        if (!stream.stopped()) {
            out += stream.flush();
        }
        CHECK(is_utf8(out));
    }
    CHECK(stop.size() > 1 || shown[0] == shown[1]); // of several stop strings, the first that is whole ends it

    std::vector<uint64_t> plain;
    for (size_t i = 0; i < text.size(); i += 3) {
        plain.push_back(i);
    }
    const int64_t n = kvf_tokenize(vocabulary(), text.data(), text.size(), plain.data(), plain.size(), nullptr, 0,
                                   /* add_special = */ false, /* parse_special = */ true);
    CHECK(n >= 0 ? static_cast<size_t>(n) <= 4 * text.size() + 8 : *kvf_last_error() != 0); // not all is UTF-8
    return 0;
}
