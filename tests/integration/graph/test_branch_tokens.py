"""The tokens of a fan-out's branches in the `custom` stream of its graph."""

from typing import Any, TypedDict

import pytest
from helpers import call
from langgraph.graph import START, StateGraph
from pydantic import BaseModel

from langgraph_kvfork import ForkBranch, ForkNode

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


class Answer(BaseModel):
    yes: bool


class State(TypedDict, total=False):
    messages: list[Any]
    branches: dict[str, Any]


def branches(llm):
    return {
        "plain": "Is this a license?",
        "bound": ForkBranch("Say hello.", llm.bind(stop=["\n"])),
        "parsed": ForkBranch(
            "Is this a license?", llm.with_structured_output(Answer, max_tokens=32)
        ),
    }


def graph_of(node):
    graph = StateGraph(State)
    graph.add_node("panel", node)
    graph.add_edge(START, "panel")
    return graph.compile()


async def streamed(graph, state, *, asynchronous, **options):
    options = {"stream_mode": ["custom", "values"], **options}
    if asynchronous:
        items = [item async for item in graph.astream(state, **options)]
    else:
        items = list(graph.stream(state, **options))
    texts = {}
    for *_, mode, item in items:
        if mode == "custom":
            assert item["token"]
            texts[item["branch_name"]] = [*texts.get(item["branch_name"], []), item["token"]]
    return texts, items[-1][-1]["branches"]


@both
@pytest.mark.parametrize("place", ["graph", "subgraph"])
async def test_every_branchs_tokens_and_the_same_result(llm, engine, excerpt, place, asynchronous):
    graph = graph_of(ForkNode(llm, branches(llm), stream_tokens=True))
    options = {}
    if place == "subgraph":
        graph, options = graph_of(graph), {"subgraphs": True}
    state = {"messages": excerpt}
    tokens, result = await streamed(graph, state, asynchronous=asynchronous, **options)
    assert tokens.keys() == {"plain", "bound", "parsed"}
    for name in ("plain", "bound"):
        assert "".join(tokens[name]) == result[name].text
        assert len(tokens[name]) > 1
        assert type(result[name]).__name__ == "AIMessage"
    assert Answer.model_validate_json("".join(tokens["parsed"])) == result["parsed"]


@both
async def test_only_if_it_is_asked_for(llm, engine, excerpt, asynchronous):
    graph = graph_of(ForkNode(llm, {"a": "Why?"}))
    tokens, result = await streamed(graph, {"messages": excerpt}, asynchronous=asynchronous)
    assert tokens == {}
    assert result["a"].text


@both
async def test_who_does_not_listen_gets_the_same(llm, engine, excerpt, asynchronous):
    node = ForkNode(llm, {"a": "Why?", "b": "How?"}, stream_tokens=True)
    state = {"messages": excerpt}
    results = [
        await call(graph_of(node), state, asynchronous=asynchronous),
        await call(node, state, asynchronous=asynchronous),
    ]
    for result in results:
        assert set(result["branches"]) == {"a", "b"}
        assert all(answer.text for answer in result["branches"].values())


async def test_beside_the_messages_stream_no_token_comes_twice(llm, engine, excerpt):
    graph = graph_of(ForkNode(llm, {"a": "Why?"}, stream_tokens=True))
    custom, messages = "", ""
    async for mode, item in graph.astream(
        {"messages": excerpt}, stream_mode=["custom", "messages"]
    ):
        if mode == "custom":
            custom += item["token"]
        else:
            messages += item[0].text
    assert custom == messages != ""
