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
from langgraph_kvfork.convert.messages import to_openai


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
    with pytest.raises(InvalidRequestError, match=r"messages\[0\]\.role=' '"):
        to_openai([ChatMessage(role=" ", content="x")])


def test_a_call_in_the_old_form_is_not_dropped():
    call = {"name": "add", "arguments": "{}"}
    with pytest.raises(InvalidRequestError, match=r'messages\[0\].*"function_call".*tool_calls'):
        to_openai([AIMessage("", additional_kwargs={"function_call": call})])
    # LangChain reads the form that came after it itself
    calls = [{"id": "1", "type": "function", "function": call}]
    (message,) = to_openai([AIMessage("", additional_kwargs={"tool_calls": calls})])
    assert message["tool_calls"][0]["function"]["name"] == "add"


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ({"type": "redacted_thinking", "data": "xyz"}, ""),
        ({"type": "thinking", "thinking": "hm", "signature": "s"}, ""),
        ({"type": "reasoning", "summary": [], "id": "rs_1"}, ""),
        ({"type": "refusal", "refusal": "I will not."}, "I will not."),
        ({"type": "server_tool_use", "id": "1", "name": "web_search", "input": {}}, ""),
        ({"type": "server_tool_call", "id": "1", "name": "web_search", "args": {}}, ""),
        ({"type": "server_tool_result", "tool_call_id": "1", "status": "success"}, ""),
        ({"type": "web_search_tool_result", "tool_use_id": "1", "content": []}, ""),
        ({"type": "web_search_call", "id": "ws_1", "status": "completed"}, ""),
        ({"type": "code_interpreter_call", "id": "1", "code": "1"}, ""),
        ({"type": "mcp_call", "id": "1", "name": "x", "arguments": "{}"}, ""),
        ({"type": "non_standard", "value": {"type": "anything"}}, ""),
        ({"type": "output_text", "text": "said", "annotations": []}, "said"),
        ({"type": "text", "text": "said", "citations": [{"type": "citation"}]}, "said"),
        ({"type": "text-plain", "text": "said", "mime_type": "text/plain"}, "said"),
    ],
)
def test_answers_of_other_providers_are_taken(block, text):
    before = {"type": "text", "text": "Well. "}
    (message,) = to_openai([AIMessage([before, block])])
    assert message == {"role": "assistant", "content": f"Well. {text}"}


@pytest.mark.parametrize("kind", [HumanMessage, SystemMessage, ToolMessage])
@pytest.mark.parametrize(
    ("block", "text"),
    [
        ({"type": "text-plain", "text": "said", "mime_type": "text/plain"}, "said"),
        ({"type": "input_text", "text": "said"}, "said"),
        ({"type": "text", "text": "said", "cache_control": {"type": "ephemeral"}}, "said"),
        ({"text": "said"}, "said"),
        ({"type": "file", "source_type": "text", "text": "said"}, "said"),
        (
            {
                "type": "document",
                "title": "T",
                "source": {"type": "text", "media_type": "text/plain", "data": "said"},
            },
            "T\nsaid",
        ),
        (
            {"type": "document", "source": {"type": "content", "content": [{"text": "said"}]}},
            "said",
        ),
        (
            {
                "type": "search_result",
                "title": "T",
                "source": "https://x.org",
                "content": [{"type": "text", "text": "said"}],
            },
            "T\nhttps://x.org\nsaid",
        ),
    ],
)
def test_text_is_taken_wherever_a_provider_puts_it(kind, block, text):
    more = {"tool_call_id": "1"} if kind is ToolMessage else {}
    (message,) = to_openai([kind(["a", block], **more)])
    assert message["content"] == f"a\n{text}"
    # Bedrock's marks in between say nothing to a model
    (message,) = to_openai([kind(["a", {"cachePoint": {"type": "default"}}, block], **more)])
    assert message["content"] == f"a\n{text}"


@pytest.mark.parametrize(
    "block",
    [
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "document", "source": {"type": "base64", "data": "AA=="}},
        {"type": "document", "source": {"type": "content", "content": [{"type": "image"}]}},
        {"type": "file", "file_id": "file_1"},
        {"type": "text", "text": None},
        {"type": "from_the_future"},
        {},
    ],
)
def test_a_question_with_something_else_is_refused(block):
    with pytest.raises(InvalidRequestError, match=r"messages\[0\]\.content\[1\] is a block"):
        to_openai([HumanMessage(["a", block])])


@pytest.mark.parametrize(
    "block",
    [
        {"type": "tool_use", "id": "1", "name": "add", "input": {"a": 1}},
        {"type": "tool_call", "id": "1", "name": "add", "args": {"a": 1}},
        {"type": "function_call", "id": "f", "call_id": "1", "name": "add", "arguments": '{"a":1}'},
    ],
)
def test_a_call_that_only_a_block_has_is_not_lost(block):
    call = {"name": "add", "args": {"a": 1}, "id": "1"}
    (alone,) = to_openai([AIMessage.model_construct(content=[block])])
    (twice,) = to_openai([AIMessage([block], tool_calls=[call])])
    assert alone == twice
    (made,) = alone["tool_calls"]
    assert (made["id"], made["function"]["name"]) == ("1", "add")
    assert json.loads(made["function"]["arguments"]) == {"a": 1}


def test_a_refusal_beside_an_empty_answer_is_what_was_said():
    (message,) = to_openai([AIMessage("", additional_kwargs={"refusal": "No."})])
    assert message["content"] == "No."
