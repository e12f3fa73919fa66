#pragma once

#include "chat/answer_format.h"

#include <string>
#include <vector>

namespace kvf {

// Reads one answer while it is generated: text goes in, content, thoughts and tool calls come out. One thread at a time.
class Answer {
  public:
    explicit Answer(const AnswerFormat & format);

    // takes text in and returns what it adds to the message, as kvf_answer_push() says
    std::string push(const std::string & text, bool is_last);

  private:
    bool read(bool is_last, common_json & delta);

    common_chat_parser_params parser_;
    bool                      is_plain_;
    std::string               text_;
    common_chat_msg           message_; // what was read of it
    std::vector<std::string>  call_ids_;
};

} // namespace kvf
