"""What a tree search expands, keeps and refuses; no model computes here."""

import math
from typing import Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph

from langgraph_kvfork import ChatKVFork, InvalidRequestError, TreeSearchNode

LLM = ChatKVFork(model_path="/nonexistent.gguf")
DOC = {"messages": [HumanMessage("doc")]}

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


class Letters(ChatKVFork):
    """A chat model that answers a, b or c, by the seed that it would give to the engine."""

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        yield self.letter(stop, kwargs)

    async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
        yield self.letter(stop, kwargs)

    def letter(self, stop, kwargs):
        seed = self._call(stop, kwargs).request.seed
        return ChatGenerationChunk(message=AIMessageChunk("abc"[seed % 3]))


LETTERS = Letters(seed=0)
"""Answers a, b and c to each prompt."""


def word(path):
    return "".join(message.text for message in path if message.type == "ai")


def late_letters(path):
    return float(int(word(path), 16))


async def alate_letters(path):
    return late_letters(path)


async def run(node, state=DOC, *, asynchronous=False):
    paths = (await node.ainvoke(state) if asynchronous else node.invoke(state))[node.output_key]
    return [(word(path["messages"]), path["score"]) for path in paths]


@both
@pytest.mark.parametrize("score", [late_letters, RunnableLambda(late_letters)])
async def test_the_best_paths_are_kept_in_order(score, asynchronous):
    node = TreeSearchNode(LETTERS, score, beam_width=2, depth=3)
    expected = [("ccc", float(0xCCC)), ("ccb", float(0xCCB))]
    assert await run(node, asynchronous=asynchronous) == expected


async def test_a_score_may_be_async():
    node = TreeSearchNode(LETTERS, alate_letters, depth=1, beam_width=9)
    assert [w for w, _ in await run(node, asynchronous=True)] == ["c", "b", "a"]


@both
async def test_every_round_expands_all_that_was_kept(asynchronous):
    asked = []

    def ask(messages):
        asked.append([message.text for message in messages])
        return messages

    llm = RunnableLambda(ask) | LETTERS
    node = TreeSearchNode(llm, late_letters, n=2, beam_width=2, depth=2, follow_up="And?")
    await run(node, asynchronous=asynchronous)
    assert asked[:2] == [["doc"]] * 2
    assert sorted(asked[2:]) == [["doc", "a", "And?"]] * 2 + [["doc", "b", "And?"]] * 2


@both
async def test_the_search_ends_where_it_wanted_to_be(asynchronous):
    # what is best so far is not a solution, and is not kept beside one
    node = TreeSearchNode(
        LETTERS, late_letters, depth=9, beam_width=9, is_solution=lambda path: word(path)[1:] == "a"
    )
    assert [w for w, _ in await run(node, asynchronous=asynchronous)] == ["ca", "ba", "aa"]


@both
async def test_an_answer_that_came_twice_is_scored_once(asynchronous):
    scored = []

    def score(path):
        scored.append(word(path))
        return 0

    node = TreeSearchNode(RunnableLambda(lambda messages: AIMessage("a")), score, n=4, depth=2)
    assert await run(node, asynchronous=asynchronous) == [("aa", 0.0)]
    assert scored == ["a", "aa"]


@both
async def test_what_is_said_between_two_answers_may_depend_on_the_path(asynchronous):
    node = TreeSearchNode(
        LETTERS,
        late_letters,
        depth=2,
        beam_width=1,
        follow_up=lambda path: [("human", f"Not {path[-1].text}."), ("human", "Go on.")],
    )
    state = {"messages": "doc"}
    result = await node.ainvoke(state) if asynchronous else node.invoke(state)
    (path,) = result["paths"]
    assert [m.text for m in path["messages"]] == ["c", "Not c.", "Go on.", "c"]


def test_a_calls_seed_is_the_first_ones():
    node = TreeSearchNode(LETTERS, lambda path: 0, depth=1, beam_width=3)
    result = node.invoke(DOC, seed=2)
    assert [word(path["messages"]) for path in result["paths"]] == ["c", "a", "b"]


class State(TypedDict, total=False):
    messages: list[Any]
    found: list[Any]


@both
async def test_in_a_graph_with_a_checkpointer(asynchronous):
    graph = StateGraph(State)
    graph.add_node("search", TreeSearchNode(LETTERS, late_letters, depth=1, output_key="found"))
    graph.add_edge(START, "search")
    compiled = graph.compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    if asynchronous:
        await compiled.ainvoke(DOC, config)
    else:
        compiled.invoke(DOC, config)
    found = compiled.get_state(config).values["found"]
    assert [word(path["messages"]) for path in found] == ["c", "b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"llm": "llm"}, "llm='llm'"),
        ({"score": 1}, "score=1"),
        ({"n": 0}, "n=0"),
        ({"beam_width": 0}, "beam_width=0"),
        ({"depth": True}, "depth=True"),
        ({"follow_up": ""}, "follow_up=''"),
        ({"is_solution": True}, "is_solution=True"),
        ({"messages_key": ""}, "messages_key=''"),
        ({"output_key": None}, "output_key=None"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(InvalidRequestError, match=message):
        TreeSearchNode(**{"llm": LLM, "score": late_letters, **arguments})


@pytest.mark.parametrize(
    ("arguments", "state", "message"),
    [
        ({}, {"other": 1}, "no key 'messages'"),
        ({}, {"messages": []}, r"state\['messages'\]=\[\]"),
        ({"score": lambda path: "good"}, DOC, r"score\(path\)='good'"),
        ({"score": lambda path: math.nan}, DOC, r"score\(path\)=nan"),
        ({"follow_up": lambda path: None}, DOC, r"follow_up\(path\)=None"),
        ({"llm": RunnableLambda(lambda messages: "text")}, DOC, "llm answered 'text'"),
    ],
)
def test_what_comes_up_on_the_way_is_refused(arguments, state, message):
    node = TreeSearchNode(**{"llm": LETTERS, "score": late_letters, **arguments})
    with pytest.raises(InvalidRequestError, match=message):
        node.invoke(state)
