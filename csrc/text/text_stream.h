#pragma once

#include <string>
#include <vector>

namespace kvf {

// Turns the pieces of tokens into text that can be shown: never half a UTF-8 character, never a part of a stop string.
class TextStream {
  public:
    explicit TextStream(std::vector<std::string> stop) : stop_(std::move(stop)) {}

    // takes a token's piece and returns what is safe to show by now
    std::string push(const std::string & piece);

    // returns what was held back; bytes that never became a character are replaced by U+FFFD
    std::string flush();

    // a stop string was found; what precedes it has been returned, nothing else will be
    bool stopped() const { return stopped_; }

  private:
    std::vector<std::string> stop_;
    std::string              held_;
    bool                     stopped_ = false;
};

} // namespace kvf
