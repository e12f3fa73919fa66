"""Tools on a real model. What it calls with is forced by grammar, so shapes can be relied on."""

import json

import pytest
from helpers import call
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from langgraph_kvfork import ChatKVFork, InvalidRequestError

QUESTION = "What is 1 + 2?"


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class Weather(BaseModel):
    """Look up the weather."""

    days: int = Field(description="how many days")
    unit: str = Field(json_schema_extra={"enum": ["celsius", "fahrenheit"]})


class Ping(TypedDict):
    """Ping a host."""

    port: int


NOTHING = {
    "type": "function",
    "function": {
        "name": "now",
        "description": "Tell the time.",
        "parameters": {"type": "object", "properties": {}},
    },
}
TOOLS = [add, Weather, Ping, NOTHING]


@pytest.fixture(scope="session")
def llm(llm):
    return llm.model_copy(update={"max_tokens": 96})


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("name", "keys"), [("add", {"a", "b"}), ("Weather", {"days", "unit"}), ("now", set())]
)
async def test_a_tool_that_is_named_is_called_once(llm, engine, name, keys, asynchronous):
    answer = await call(
        llm.bind_tools(TOOLS, tool_choice=name), QUESTION, asynchronous=asynchronous
    )
    (made,) = answer.tool_calls
    assert made["name"] == name
    assert made["args"].keys() == keys
    assert made["id"]
    assert answer.content == ""
    assert answer.response_metadata["finish_reason"] == "tool_calls"


def test_a_choice_can_be_given_in_all_its_forms(llm, engine):
    for choice in (True, "any", "required"):
        bound = llm.bind_tools([Ping], tool_choice=choice, parallel_tool_calls=False)
        assert [c["name"] for c in bound.invoke(QUESTION).tool_calls] == ["Ping"]
    named = {"type": "function", "function": {"name": "Ping"}}
    for choice in ("Ping", named):
        (made,) = llm.bind_tools(TOOLS, tool_choice=choice).invoke(QUESTION).tool_calls
        assert isinstance(made["args"]["port"], int)
    for choice in ("none", "auto", None):
        # greedy, the model does not think of calling
        answer = llm.bind_tools([Ping], tool_choice=choice).invoke(QUESTION, max_tokens=8)
        assert answer.text
        assert not answer.tool_calls


def test_tools_can_be_given_to_a_call_too(llm, engine):
    (made,) = llm.invoke(QUESTION, tools=[add], tool_choice="add").tool_calls
    assert made["name"] == "add"


@pytest.mark.parametrize("output_version", ["v0", "v1"])
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_streamed_calls_have_stable_indices_and_add_up(
    llm, engine, output_version, asynchronous
):
    model = llm.model_copy(update={"output_version": output_version})
    # greedy, it calls again and again until it is cut off
    bound = model.bind_tools([add], tool_choice="any", parallel_tool_calls=True)
    if asynchronous:
        chunks = [chunk async for chunk in bound.astream(QUESTION)]
    else:
        chunks = list(bound.stream(QUESTION))
    pieces = [piece for chunk in chunks for piece in chunk.tool_call_chunks]
    indices = [piece["index"] for piece in pieces]
    assert indices == sorted(indices)
    assert set(indices) >= {0, 1}
    ids = set()
    for index in set(indices):
        own = [piece for piece in pieces if piece["index"] == index]
        assert [piece["name"] for piece in own if piece["name"]] == ["add"]
        (call_id,) = [piece["id"] for piece in own if piece["id"]]
        ids.add(call_id)
        assert len(own) > 2
        if index == 0:
            assert json.loads("".join(piece["args"] for piece in own)).keys() == {"a", "b"}
    assert len(ids) == len(set(indices))

    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert len(whole.tool_calls) + len(whole.invalid_tool_calls) == len(ids)
    assert all(made["args"].keys() == {"a", "b"} for made in whole.tool_calls)
    assert [block["type"] for block in whole.content_blocks][:1] == ["tool_call"]
    assert [c for c in chunks if c.usage_metadata] == [chunks[-1]]
    assert [c for c in chunks if c.chunk_position == "last"] == [chunks[-1]]


def test_a_call_that_is_cut_off_is_invalid_wherever_it_is_cut(llm, engine):
    bound = llm.bind_tools([Weather], tool_choice="Weather")
    whole = bound.invoke(QUESTION)
    n_tokens = whole.usage_metadata["output_tokens"]
    for n in range(1, n_tokens, 3):
        answer = bound.invoke(QUESTION, max_tokens=n)
        if not answer.tool_calls:
            assert answer.invalid_tool_calls or answer.content
            assert answer.response_metadata["finish_reason"] == "length"
            assert answer.response_metadata.get("raw_text") or answer.content
        else:  # nothing is missing but the closing tag
            assert answer.tool_calls[0]["args"] == whole.tool_calls[0]["args"]
    assert not bound.invoke(QUESTION, max_tokens=n_tokens // 3).tool_calls


def test_messages_of_tools_go_back_into_the_prompt(llm, engine):
    history = [
        SystemMessage("Be brief."),
        HumanMessage(QUESTION),
        AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1, "b": 2}, "id": "x"}]),
        ToolMessage("three", tool_call_id="x", name="add"),
        ToolMessage([{"type": "text", "text": "no"}], tool_call_id="y", status="error"),
    ]
    text = llm._call(None, {"tools": [add]}).render(engine, history).text
    assert text.count("<|im_start|>system") == 1
    assert "Be brief.\n\nYou can call functions." in text
    assert '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>' in text
    assert (
        "<|im_start|>user\n<tool_response>\nthree\n</tool_response>\n"
        "<tool_response>\nno\n</tool_response><|im_end|>" in text
    )
    assert llm.bind_tools([add]).invoke(history, max_tokens=4).text


def test_calls_share_a_prompt_whatever_tool_they_are_for(llm, engine):
    llm.bind_tools(TOOLS).invoke(QUESTION, max_tokens=1)
    for name in ("add", "Ping", "now"):
        usage = llm.bind_tools(TOOLS, tool_choice=name).invoke(QUESTION).usage_metadata
        assert usage["input_token_details"]["cache_read"] == usage["input_tokens"] - 1


def test_prefilled_tools_are_a_part_of_what_is_shared(llm, engine):
    bound = llm.bind_tools(TOOLS)
    message = [SystemMessage("Be brief."), HumanMessage(QUESTION)]
    prefilled = llm.prefill(message, **bound.kwargs).prompt_tokens
    usage = bound.invoke(message, max_tokens=1).usage_metadata
    assert usage["input_token_details"]["cache_read"] == prefilled


def test_a_prompt_can_tell_of_more_tools_than_can_be_called(llm, engine):
    def check_prompt(answer):
        usage = answer.usage_metadata
        assert usage["input_token_details"]["cache_read"] == usage["input_tokens"] - 1

    llm.bind_tools(TOOLS).invoke(QUESTION, max_tokens=1)
    told = llm.bind(prompt_tools=TOOLS)
    for tool, choice, name in ((add, "any", "add"), (Ping, "Ping", "Ping")):
        bound = llm.bind_tools([tool], tool_choice=choice, prompt_tools=TOOLS)
        answer = bound.invoke(QUESTION)
        assert {made["name"] for made in answer.tool_calls} == {name}
        check_prompt(answer)
    # where the model decides, the grammar waits for a call
    call = llm._call(None, {"tools": [Ping], "prompt_tools": TOOLS})
    rendered = call.render(engine, [HumanMessage(QUESTION)])
    assert "Ping" in rendered.grammar
    assert "add" not in rendered.grammar
    # and where there is none to call, the answer may have another grammar
    check_prompt(told.invoke(QUESTION, max_tokens=1))
    schema = {"type": "json_schema", "json_schema": {"schema": {"enum": ["yes", "no"]}}}
    answer = told.invoke(QUESTION, response_format=schema)
    assert json.loads(answer.text) in ("yes", "no")
    check_prompt(answer)


def test_a_tool_and_a_grammar_exclude_each_other(llm, engine):
    with pytest.raises(InvalidRequestError, match="tools and grammar"):
        llm.bind_tools([add]).invoke(QUESTION, grammar='root ::= "x"')
    with pytest.raises(InvalidRequestError, match="response_format and grammar"):
        llm.invoke(QUESTION, response_format={"type": "json_object"}, grammar='root ::= "x"')


THINKER = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.reasoning_content %}
        {{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}
    {%- endif %}
    {{- message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""


async def test_thoughts_are_told_apart_from_the_text(llm):
    thinker = ChatKVFork(n_ctx=1024, temperature=0, max_tokens=48, chat_template=THINKER)
    said = thinker.bind(grammar='root ::= "<think>\\nOne and two.\\n</think>\\n\\nThree."')
    try:
        answer = said.invoke(QUESTION)
        assert answer.text == "Three."
        assert answer.additional_kwargs["reasoning_content"].strip() == "One and two."
        assert [block["type"] for block in answer.content_blocks] == ["reasoning", "text"]
        usage = answer.usage_metadata
        assert 3 <= usage["output_token_details"]["reasoning"] < usage["output_tokens"]

        chunks = [chunk async for chunk in said.astream(QUESTION)]
        thoughts = "".join(c.additional_kwargs.get("reasoning_content", "") for c in chunks)
        assert thoughts == answer.additional_kwargs["reasoning_content"]
        assert "".join(c.text for c in chunks) == "Three."
        assert not any(c.text and c.additional_kwargs for c in chunks)

        v1 = thinker.model_copy(update={"output_version": "v1"})
        blocks = v1.bind(**said.kwargs).invoke(QUESTION).content
        assert [block["type"] for block in blocks] == ["reasoning", "text"]

        tokens = thinker.engine.tokenize
        off = thinker._call(None, {"reasoning": False}).render(
            thinker.engine, [HumanMessage(QUESTION)]
        )
        assert off.text.endswith("<think>\n\n</think>\n\n")
        assert thinker.invoke(QUESTION, reasoning=False, max_tokens=1).usage_metadata[
            "input_tokens"
        ] == len(tokens(off.text))
    finally:
        thinker.engine.close()
