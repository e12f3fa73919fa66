#include "text/text_stream.h"

#include <algorithm>

namespace kvf {

namespace {

// length of the longest beginning of the text's first n bytes that has no unfinished UTF-8 character at its end
size_t n_complete(const std::string & text, size_t n) {
    for (size_t back = 1; back <= std::min<size_t>(3, n); ++back) {
        const unsigned char c = text[n - back];
        if ((c & 0xC0) == 0x80) {
            continue; // inside a character: look for where it starts
        }
        const size_t n_bytes = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC0 ? 2 : 1;
        return n_bytes > back ? n - back : n;
    }
    return n;
}

// where the longest end of the text starts that may yet become the stop string
size_t find_partial(const std::string & text, const std::string & stop) {
    for (size_t n = std::min(text.size(), stop.size() - 1); n > 0; --n) {
        if (text.compare(text.size() - n, n, stop, 0, n) == 0) {
            return text.size() - n;
        }
    }
    return text.size();
}

// invalid bytes become U+FFFD, so that what goes out is always UTF-8
std::string to_valid_utf8(const std::string & text) {
    std::string out;
    for (size_t i = 0; i < text.size();) {
        const unsigned char c       = text[i];
        const size_t        n_bytes = c < 0x80                ? 1
                                      : c >= 0xC2 && c < 0xE0 ? 2
                                      : c >= 0xE0 && c < 0xF0 ? 3
                                      : c >= 0xF0 && c < 0xF5 ? 4
                                                              : 0;
        bool                valid   = n_bytes > 0 && i + n_bytes <= text.size();
        for (size_t k = 1; valid && k < n_bytes; ++k) {
            const unsigned char next = text[i + k];
            valid                    = (next & 0xC0) == 0x80;
            if (k == 1) { // overlong forms, surrogates, beyond U+10FFFF
                valid = valid && !(c == 0xE0 && next < 0xA0) && !(c == 0xED && next > 0x9F) &&
                        !(c == 0xF0 && next < 0x90) && !(c == 0xF4 && next > 0x8F);
            }
        }
        if (valid) {
            out.append(text, i, n_bytes);
            i += n_bytes;
        } else {
            out += "\xEF\xBF\xBD";
            ++i;
        }
    }
    return out;
}

} // namespace

std::string TextStream::push(const std::string & piece) {
    if (stopped_) {
        return "";
    }
    held_ += piece;

    size_t i_stop = std::string::npos;
    for (const auto & stop : stop_) {
        i_stop = std::min(i_stop, held_.find(stop));
    }
    if (i_stop != std::string::npos) {
        stopped_ = true;
        held_.resize(i_stop);
        return flush();
    }

    size_t n_safe = held_.size();
    for (const auto & stop : stop_) {
        n_safe = std::min(n_safe, find_partial(held_, stop));
    }
    n_safe                 = n_complete(held_, n_safe); // a stop string may begin inside of a character
    const std::string text = held_.substr(0, n_safe);
    held_.erase(0, n_safe);
    return to_valid_utf8(text);
}

std::string TextStream::flush() {
    const std::string text = to_valid_utf8(held_);
    held_.clear();
    return text;
}

} // namespace kvf
