#pragma once

#include "chat.h"

#include <string>
#include <vector>

namespace kvf {

// A part of a message, or a tool, that a template leaves out of the prompt.
struct LeftOut {
    size_t      index; // of the message, or of the tool
    std::string part;  // "content", "reasoning_content", "name", "tool_calls" or "tool"
};

// Puts a word that is nowhere else in the place of each text, and finds out which of them the template's prompt lacks. What
// a template does with a text (trim it, escape it) makes no difference then. Throws what the template throws.
class LeftOutTexts {
  public:
    explicit LeftOutTexts(const common_chat_templates_inputs & inputs);

    // Equal for requests whose texts differ, but are in the same places: these lack the same parts, so find() need not be
    // asked again.
    const std::string & shape() const { return shape_; }

    // Renders the prompt with the words, and returns the parts whose words it lacks.
    std::vector<LeftOut> find(const common_chat_templates * templates) const;

  private:
    struct Text {
        LeftOut     what;
        std::string word;
    };

    void replace(std::string & text, size_t index, const char * part, const std::string & form = "%");

    common_chat_templates_inputs inputs_; // with words for texts
    std::vector<Text>            texts_;
    std::string                  shape_;
};

} // namespace kvf
