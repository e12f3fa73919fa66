"""What must not end a program: input that is nested or long without measure, grammars that end."""

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from langgraph_kvfork import ChatKVFork, InvalidRequestError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("grammar", "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000),
        ("grammar", 'root ::= b root "x" | "y"\nb ::= d\nd ::= "" | "z"'),
        ("grammar", 'root ::= "' + "a" * 10_000 + '"{2000}'),
        ("logit_bias", {5: float("inf")}),
        ("frequency_penalty", 1e30),
        ("stop", ["a" * 5000]),
        ("stop", [f"a{n}" for n in range(300)]),
    ],
)
def test_is_refused_by_name(llm, engine, name, value):
    with pytest.raises(InvalidRequestError, match=name):
        llm.invoke([HumanMessage("Hi")], **{name: value})
    assert llm.invoke([HumanMessage("Hi")]).content  # and the engine goes on


def test_arguments_nested_without_measure_are_refused(llm, engine):
    arguments = {}
    for _ in range(400):
        arguments = {"a": arguments}
    call = AIMessage("", tool_calls=[{"id": "1", "name": "f", "args": arguments}])
    with pytest.raises(InvalidRequestError, match="arguments: is JSON nested 401 levels deep"):
        llm.invoke([HumanMessage("Hi"), call, ToolMessage("done", tool_call_id="1")])


def test_a_template_nested_without_measure_is_refused(llm, engine):
    for source in ("{% if true %}" * 1000, "{{ " + "(" * 1000, "{{ 1" + " + 1" * 100_000 + " }}"):
        with pytest.raises(InvalidRequestError, match="chat_template: has"):
            ChatKVFork(chat_template=source).get_num_tokens_from_messages([HumanMessage("Hi")])


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_grammars_end_is_the_texts_end(llm, engine, temperature):
    settings = {"temperature": temperature, "ignore_eos": True, "max_tokens": 40}
    done = llm.invoke([HumanMessage("Yes or no?")], grammar='root ::= "yes" | "no"', **settings)
    assert done.content in ("yes", "no")
    assert done.response_metadata["finish_reason"] == "stop"
    more = llm.invoke([HumanMessage("Yes or no?")], grammar="root ::= [a-z]*", **settings)
    assert more.response_metadata["finish_reason"] == "length"


def test_the_penalties_look_back_as_far_as_there_are_tokens(llm, engine):
    text = llm.invoke(
        [HumanMessage("Hi")], last_n_tokens_size=2**31 - 1, repeat_penalty=1.1
    ).content
    assert (
        text
        == llm.invoke([HumanMessage("Hi")], last_n_tokens_size=4096, repeat_penalty=1.1).content
    )
