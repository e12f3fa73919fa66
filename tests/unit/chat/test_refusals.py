"""What a call cannot take is refused in a sentence: the argument, the value, the remedy."""

import math
from typing import Optional

import pytest
from langchain_core.exceptions import ModelInvalidRequestError
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import BaseModel

from langgraph_kvfork import ChatKVFork, InvalidRequestError
from langgraph_kvfork.chat.structured_output import json_schema
from langgraph_kvfork.convert.messages import to_openai

HUGE = 10**400
HALF = "\ud83c"


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.fixture(scope="module")
def llm():
    return ChatKVFork(model_path="model.gguf")


def function(**fields):
    return {"type": "function", "function": fields}


def of(schema):
    return {"type": "object", "properties": {"a": schema}, "required": ["a"]}


@pytest.mark.parametrize("value", ["x", None, math.nan, math.inf, HUGE, -HUGE, [1], {}, b"1", True])
@pytest.mark.parametrize(
    "name",
    [
        "temperature",
        "top_p",
        "min_p",
        "typical_p",
        "repeat_penalty",
        "frequency_penalty",
        "presence_penalty",
        "top_k",
        "last_n_tokens_size",
    ],
)
def test_a_number_is_a_number(llm, name, value):
    with pytest.raises(InvalidRequestError, match=rf"^{name}=.* is not possible: pass "):
        llm._call(None, {name: value})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("timeout", ["1", math.nan, -1, HUGE, True]),
        ("max_tokens", [0, -2, 1.5, "1", math.nan, HUGE, True]),
        ("seed", ["1", 1.5, 2**32, -2, HUGE, True]),
        ("logprobs", [None, 3, "yes"]),
        ("top_logprobs", [-1, 1.5, "x", True]),
        ("reasoning", [None, 1, "no"]),
        ("share_prefix", [None, 1, "no"]),
        ("ignore_eos", [None, 0, "no"]),
        ("parallel_tool_calls", [1, "no"]),
        ("grammar", ["", " ", 3, "a\0", HALF]),
        (
            "logit_bias",
            [None, [1], {"a": 1}, {-1: 1}, {1: "x"}, {1: math.nan}, {1: HUGE}, {True: 1}],
        ),
        (
            "chat_template_kwargs",
            [3, 0, "", [], "x", {1: 2}, {"a": object()}, {"a": math.nan}, {"a": HALF}],
        ),
        ("response_format", [3, "json", {}, {"type": "json_schema", "json_schema": None}, [1]]),
        ("tools", [3, "add", {"a": 1}, math.nan]),
        ("prompt_tools", [3, "add", {"a": 1}, math.nan]),
    ],
)
def test_other_arguments(llm, name, values):
    for value in values:
        more = {"logprobs": True} if name == "top_logprobs" else {}
        with pytest.raises(ModelInvalidRequestError, match=rf"^{name}=.* is not possible: "):
            llm._call(None, {**more, name: value})


@pytest.mark.parametrize("value", ["END", 3, {"a": 1}, {"a"}, b"x", [""], [None], ["a\0"], [HALF]])
def test_stop_strings_are_a_list_of_text(llm, value):
    with pytest.raises(InvalidRequestError, match=r"^stop=.*: pass a list of strings"):
        llm._call(value, {})
    with pytest.raises(InvalidRequestError, match=r"^stop=.*: pass a list of strings"):
        llm._call(None, {"stop_sequences": value})


def test_a_message_does_not_grow_with_the_value(llm):
    for value in (10**5000, ["x" * 10_000]):
        with pytest.raises(InvalidRequestError) as refusal:
            llm._call(None, {"seed": value})
        assert len(str(refusal.value)) < 600


@pytest.mark.parametrize(
    "tool",
    [
        {},
        None,
        3,
        int,
        {"type": "web_search"},
        {"type": "function"},
        function(),
        {"type": "function", "function": None},
        function(name=""),
        function(name=3),
        function(name="x", description=3),
        function(name="x", parameters=3),
        function(name="x", parameters=of({"default": object()})),
        function(name="x", parameters=of({"minimum": math.nan})),
        function(name="x", parameters=of({"type": "array", "minItems": 5, "maxItems": 2})),
    ],
)
def test_a_tool_is_a_tool(llm, tool):
    for attempt in (llm.bind_tools, lambda tools: llm._call(None, {"tools": tools})):
        with pytest.raises(InvalidRequestError, match=r"^tools\[1\]"):
            attempt([add, tool])


def test_a_tool_has_a_name_of_its_own(llm):
    with pytest.raises(InvalidRequestError, match=r"^tools\[2\]\.name='add' .*: tools\[1\] has"):
        llm._call(None, {"tools": [Tree, add, add]})
    with pytest.raises(InvalidRequestError, match=r"^prompt_tools\[1\]\.name='add'"):
        llm._call(None, {"prompt_tools": [add, add]})


@pytest.mark.parametrize(
    "choice", ["", "ADD", "subtract", [1], {}, {"function": None}, {"function": "add"}, math.nan]
)
def test_a_choice_is_one_of_the_tools(llm, choice):
    with pytest.raises(InvalidRequestError, match=r"^tool_choice=.*: add\.$"):
        llm._call(None, {"tools": [add], "tool_choice": choice})
    with pytest.raises(InvalidRequestError, match=r"^tool_choice=.*: pass tools to choose from"):
        llm.bind_tools([], tool_choice="any")


@pytest.mark.parametrize(
    "schema",
    [
        3,
        "x",
        int,
        [1],
        {},
        {"a": 1},
        {"type": "object", "title": 3},
        of({"enum": [object()]}),
        {"type": "object", "properties": {HALF: {"type": "integer"}}},
        of({"type": "integer", "minimum": 5, "maximum": 1}),
        of({"type": "string", "minLength": 5, "maxLength": 1}),
    ],
)
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_a_schema_is_a_schema(llm, schema, method):
    with pytest.raises(InvalidRequestError, match=r"^schema"):
        llm.with_structured_output(schema, method=method)


def test_a_bound_is_a_keyword_where_schemas_are():
    values = of({"const": {"minimum": 2, "maximum": 1}})
    names = of({"type": "object", "properties": {"minItems": {}, "maxItems": {}}})
    for schema in (values, names):
        assert json_schema(schema) == {"title": "answer", **schema}


class Tree(BaseModel):
    left: Optional["Tree"] = None


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": "array", "items": {"type": "integer"}},
        {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        Tree.model_json_schema(),
    ],
)
def test_a_schema_without_properties_keeps_what_it_says(llm, schema):
    kept = json_schema(schema)
    assert {**kept, "title": None} == {**schema, "title": None}
    if schema.get("type", "object") == "object":
        bound = llm.with_structured_output(schema, method="function_calling").first
        parameters = bound.kwargs["tools"][0]["function"]["parameters"]
        assert {**parameters, "title": None} == {**schema, "title": None}


def test_other_arguments_of_structured_output(llm):
    for name, value in {"include_raw": "yes", "method": None}.items():
        with pytest.raises(InvalidRequestError, match=rf"^{name}={value!r} is not possible"):
            llm.with_structured_output(Tree, **{name: value})


@pytest.mark.parametrize("messages", [None, 3, [None], [3], [("nobody", "x")], [{"role": "user"}]])
def test_messages_are_messages(llm, messages):
    with pytest.raises(InvalidRequestError, match=r"^messages are not possible: pass text, or"):
        llm._messages(messages)


@pytest.mark.parametrize("args", [{"a": object()}, {"a": math.nan}, {"a": HALF}])
def test_arguments_of_a_call_are_json(args):
    call = {"name": "add", "args": args, "id": "1"}
    with pytest.raises(InvalidRequestError, match=r"^messages\[1\]\.tool_calls\[0\]\.args="):
        to_openai([HumanMessage("x"), AIMessage("", tool_calls=[call])])


def test_thoughts_are_text():
    thought = AIMessage("x", additional_kwargs={"reasoning_content": 3})
    with pytest.raises(InvalidRequestError, match=r'^messages\[0\].*"reasoning_content"\]=3'):
        to_openai([thought])
