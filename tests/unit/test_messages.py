"""LangChain's messages become what chat templates are written for."""

import json

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from langgraph_kvfork import InvalidRequestError
from langgraph_kvfork.chat.messages import to_openai


def test_roles_and_texts():
    messages = [
        SystemMessage("be brief"),
        HumanMessage("hello"),
        AIMessage("hi"),
        AIMessageChunk("there"),
        ChatMessage(role="developer", content="x"),
    ]
    assert to_openai(messages) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "assistant", "content": "there"},
        {"role": "developer", "content": "x"},
    ]


def test_blocks_of_a_question_are_joined_by_newlines():
    (message,) = to_openai([HumanMessage(["a", {"type": "text", "text": "b"}])])
    assert message["content"] == "a\nb"


def test_blocks_of_an_answer_read_as_they_were_generated():
    blocks = [
        {"type": "reasoning", "reasoning": "hm"},
        {"type": "text", "text": "one "},
        {"type": "text", "text": "sentence"},
    ]
    (message,) = to_openai([AIMessage(blocks)])
    assert message == {"role": "assistant", "content": "one sentence"}


def test_tool_calls_and_their_results():
    call = {"name": "add", "args": {"a": 1, "b": "ä"}, "id": "call_1", "type": "tool_call"}
    answer, result = to_openai(
        [
            AIMessage("", tool_calls=[call]),
            ToolMessage("3", tool_call_id="call_1", name="add"),
        ]
    )
    (converted,) = answer["tool_calls"]
    assert converted["id"] == "call_1"
    assert converted["function"]["name"] == "add"
    assert json.loads(converted["function"]["arguments"]) == {"a": 1, "b": "ä"}
    assert result == {"role": "tool", "content": "3", "tool_call_id": "call_1", "name": "add"}


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "image", "base64": "AA==", "mime_type": "image/png"},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ],
)
def test_what_is_not_text_is_refused_by_name(block):
    with pytest.raises(InvalidRequestError, match=rf"messages\[1\]\.content\[1\].*{block['type']}"):
        to_openai([SystemMessage("s"), HumanMessage([{"type": "text", "text": "a"}, block])])


def test_messages_that_no_template_knows_are_refused():
    with pytest.raises(InvalidRequestError, match="FunctionMessage"):
        to_openai([FunctionMessage("x", name="f")])
    with pytest.raises(InvalidRequestError, match="at least one"):
        to_openai([])
