#pragma once

#include "chat.h"

#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace kvf {

// Keeps the text of messages from becoming special tokens.
//
// A chat template moves text about, cuts it and escapes it. So text is marked before it is rendered: behind each
// character with which a special token's text may begin comes a character that is nowhere else. In the prompt, no special
// token may begin at a character that has such a mark, since it is from a message, whatever the template did. For the same
// reason the template does not take text of a message for its own. What it writes itself has no marks.
class PlainText {
  public:
    // vocab is not needed afterwards; source: the chat template's
    PlainText(const llama_vocab * vocab, const std::string & source);

    // Returns a character to mark with, which is neither in the template nor in the request (JSON).
    // Throws Error(KVF_ERROR_INVALID) if there is none.
    std::string free_mark(const std::string & request) const;

    // Marks all text of messages and variables, or of tools and the schema. Returns whether there was any to mark.
    bool mark_messages(common_chat_templates_inputs & inputs, const std::string & mark) const;
    bool mark_schemas(common_chat_templates_inputs & inputs, const std::string & mark) const;

    // Takes the marks out of a prompt. Returns the offsets of its bytes that are part of no special token, in order.
    std::vector<uint64_t> unmark(std::string & prompt, const std::string & mark) const;

  private:
    bool        begins(const std::string & text, size_t offset) const; // a special token's text, there
    size_t      first_character(const std::string & text, size_t offset) const;
    std::string marked(const std::string & text, const std::string & mark) const;
    std::string marked_json(const std::string & json, const std::string & mark) const;
    bool        mark_text(std::string & text, const std::string & mark) const;
    bool        mark_json(std::string & json, const std::string & mark) const;

    std::string                             source_;
    std::set<std::string>                   texts_;    // of special tokens
    std::map<std::string, std::set<size_t>> lengths_;  // of these, by their first two bytes
    std::array<bool, 256>                   starts_{}; // bytes that they begin with
};

} // namespace kvf
