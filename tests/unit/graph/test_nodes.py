"""What node types refuse, and how a fan-out treats its branches; no model computes here."""

import asyncio
import threading
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnableParallel
from langchain_core.tracers.base import BaseTracer
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from pydantic import BaseModel

from langgraph_kvfork import ChatKVFork, ForkNode, InvalidRequestError, PrefillNode
from langgraph_kvfork.branches.cancel_scope import current_scope

LLM = ChatKVFork(model_path="/nonexistent.gguf")


def echo(messages):
    return AIMessage(" | ".join(str(m.content) for m in messages))


ECHO = RunnableLambda(echo)


@pytest.mark.parametrize(
    ("branches", "message"),
    [
        ({}, "branches={}"),
        ([], r"branches=\[\]"),
        (1, "branches=1"),
        (["a", 1], r"branches\[1\]=1"),
        ("", "branches=''"),
        ({"": "a"}, "branches="),
        ({1: "a"}, "branches="),
        ({"a": ""}, r"branches\['a'\]"),
        ({"a": []}, r"branches\['a'\]"),
        ({"a": 1}, r"branches\['a'\]"),
    ],
)
def test_wrong_branches_are_refused_at_construction(branches, message):
    with pytest.raises(InvalidRequestError, match=message):
        ForkNode(LLM, branches)


def test_wrong_models_and_keys_are_refused_at_construction():
    with pytest.raises(InvalidRequestError, match="llm="):
        ForkNode("llm", {"a": "b"})
    with pytest.raises(InvalidRequestError, match="llm="):
        PrefillNode(GenericFakeChatModel(messages=iter([])))
    with pytest.raises(InvalidRequestError, match="messages_key"):
        PrefillNode(LLM, messages_key="")
    with pytest.raises(InvalidRequestError, match="wait=1"):
        PrefillNode(LLM, wait=1)
    with pytest.raises(InvalidRequestError, match="output_key"):
        ForkNode(LLM, {"a": "b"}, output_key=None)


def test_prefill_node_takes_a_model_with_bound_arguments():
    assert PrefillNode(LLM.bind(temperature=0).with_config(tags=["x"])).llm is LLM


def test_a_branch_is_text_or_messages_or_a_function_of_the_state():
    node = ForkNode(
        ECHO,
        {
            "text": "t",
            "messages": [SystemMessage("s"), ("human", "h")],
            "function": lambda state: state["topic"],
        },
    )
    result = node.invoke({"messages": [SystemMessage("doc")], "topic": "x"})
    assert {name: m.content for name, m in result["branches"].items()} == {
        "text": "doc | t",
        "messages": "doc | s\n\nh",
        "function": "doc | x",
    }
    assert list(result["branches"]) == ["text", "messages", "function"]


def test_a_function_that_returns_nonsense_is_named():
    node = ForkNode(ECHO, {"bad": lambda state: 1})
    with pytest.raises(InvalidRequestError, match=r"branches\['bad'\] returned 1"):
        node.invoke({"messages": [("system", "doc")]})


@dataclass
class DataclassState:
    messages: list[Any] = field(default_factory=list)
    answers: dict[str, AnyMessage] = field(default_factory=dict)


class PydanticState(BaseModel):
    messages: list[Any] = []
    answers: dict[str, Any] = {}


class DictState(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    answers: dict[str, AnyMessage]


@pytest.mark.parametrize("schema", [DataclassState, PydanticState, DictState])
async def test_states_of_every_kind(schema):
    graph = StateGraph(schema)
    graph.add_node("fork", ForkNode(ECHO, {"a": "1", "b": "2"}, output_key="answers"))
    graph.add_edge(START, "fork")
    graph.add_edge("fork", END)
    compiled = graph.compile()
    state = {"messages": [SystemMessage("doc")]}
    for result in (compiled.invoke(state), await compiled.ainvoke(state)):
        assert {n: m.content for n, m in result["answers"].items()} == {
            "a": "doc | 1",
            "b": "doc | 2",
        }


def test_a_missing_key_is_named():
    with pytest.raises(InvalidRequestError, match=r"'messages'.*other"):
        ForkNode(ECHO, {"a": "b"}).invoke({"other": 1})
    with pytest.raises(InvalidRequestError, match="'messages'"):
        PrefillNode(LLM).invoke({"other": 1})


def test_sync_branches_run_all_at_once_however_small_the_default_pool():
    n_branches = 40
    barrier = threading.Barrier(n_branches, timeout=20)

    def meet(messages):
        barrier.wait()
        return echo(messages)

    node = ForkNode(RunnableLambda(meet), {f"b{i}": str(i) for i in range(n_branches)})
    assert len(node.invoke({"messages": [("system", "doc")]})["branches"]) == n_branches


def test_if_a_sync_branch_fails_the_others_are_cancelled_and_its_error_raised():
    class Member:
        def __init__(self):
            self.cancelled = threading.Event()

        def cancel(self):
            self.cancelled.set()

    def run(messages):
        if messages[-1].content == "fail":
            raise ValueError("boom")
        member = Member()
        current_scope().add(member)
        assert member.cancelled.wait(20)
        raise RuntimeError("cancelled")

    node = ForkNode(RunnableLambda(run), {"a": "wait", "b": "fail", "c": "wait"})
    with pytest.raises(ValueError, match="boom"):
        node.invoke({"messages": [("system", "doc")]})
    assert current_scope() is None


async def test_if_an_async_branch_fails_the_others_are_cancelled_and_its_error_raised():
    cancelled = []

    async def run(messages):
        if messages[-1].content == "fail":
            await asyncio.sleep(0.01)
            raise ValueError("boom")
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            cancelled.append(messages[-1].content)
            raise

    node = ForkNode(RunnableLambda(run), {"a": "1", "b": "fail", "c": "2"})
    with pytest.raises(ValueError, match="boom"):
        await node.ainvoke({"messages": [("system", "doc")]})
    assert sorted(cancelled) == ["1", "2"]


def branch_graph():
    model = GenericFakeChatModel(messages=iter([AIMessage("one two"), AIMessage("three four")]))
    graph = StateGraph(DictState)
    graph.add_node("fork", ForkNode(model, {"a": "1", "b": "2"}, output_key="answers"))
    graph.add_edge(START, "fork")
    return graph.compile()


async def test_streamed_tokens_carry_their_branchs_name():
    state = {"messages": [SystemMessage("doc")]}
    sync = list(branch_graph().stream(state, stream_mode="messages"))
    asynchronous = [x async for x in branch_graph().astream(state, stream_mode="messages")]
    for stream in (sync, asynchronous):
        texts: dict[str, str] = {}
        for chunk, metadata in stream:
            name = metadata["kvfork_branch"]
            assert f"branch:{name}" in metadata["tags"]
            assert metadata["langgraph_node"] == "fork"
            texts[name] = texts.get(name, "") + chunk.content
        assert sorted(texts) == ["a", "b"]
        assert sorted(texts.values()) == ["one two", "three four"]


class AskedError(Exception):
    """Carries the prompt out of a model that is never loaded."""


@pytest.fixture
def prefilled(monkeypatch):
    """What a `PrefillNode` prefills, and with which arguments."""
    seen = []

    def prefill(self, messages, config, on_progress, kwargs, *, save):
        seen.append((self._messages(messages), kwargs))
        raise AskedError

    async def aprefill(*args, **kwargs):
        prefill(*args, **kwargs)

    monkeypatch.setattr(ChatKVFork, "_prefill", prefill)
    monkeypatch.setattr(ChatKVFork, "_aprefill", aprefill)
    return seen


QUESTION_PROMPT = ChatPromptTemplate.from_messages([("placeholder", "{messages}"), ("human", "q")])


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("messages", "contents"),
    [
        (None, ["doc"]),
        ("more", ["doc\n\nmore"]),
        (("human", "more"), ["doc\n\nmore"]),
        ([("ai", "a"), HumanMessage("b")], ["doc", "a", "b"]),
        (lambda state: state["topic"], ["doc\n\nx"]),
        (lambda state: [SystemMessage(state["topic"])], ["doc\n\nx"]),
        (ChatPromptTemplate.from_messages([("human", "{topic}")]), ["doc\n\nx"]),
    ],
)
async def test_prefill_node_takes_messages_as_a_branch_does(
    prefilled, messages, contents, asynchronous
):
    node, state = PrefillNode(LLM, messages), {"messages": [("human", "doc")], "topic": "x"}
    with pytest.raises(AskedError):
        await node.ainvoke(state) if asynchronous else node.invoke(state)
    ((asked, _),) = prefilled
    assert [m.content for m in asked] == contents


@pytest.mark.parametrize(
    ("llm", "contents"),
    [
        (LLM.bind(stop=["x"]), ["doc"]),
        (LLM.bind(stop=["x"]).with_retry(), ["doc"]),
        (LLM.bind(stop=["x"]).with_fallbacks([LLM]), ["doc"]),
        (RunnableParallel(raw=LLM.bind(stop=["x"])) | ECHO, ["doc"]),
        (LLM.bind(stop=["x"]).with_listeners(on_end=print), ["doc"]),
        (LLM.configurable_fields(seed=ConfigurableField("s")).bind(stop=["x"]), ["doc"]),
        (
            LLM.bind(stop=["no"])
            .configurable_alternatives(ConfigurableField("which"), other=LLM.bind(stop=["x"]))
            .with_config(configurable={"which": "other"}),
            ["doc"],
        ),
        ({"messages": RunnableLambda(list)} | QUESTION_PROMPT | LLM.bind(stop=["x"]), ["doc", "q"]),
    ],
)
def test_prefill_node_takes_the_models_that_a_fork_node_takes(prefilled, llm, contents):
    with pytest.raises(AskedError):
        PrefillNode(llm).invoke({"messages": ("human", "doc")})
    ((asked, kwargs),) = prefilled
    assert [m.content for m in asked] == contents
    assert kwargs == {"stop": ["x"]}


def test_prefill_node_refuses_what_is_no_messages():
    with pytest.raises(InvalidRequestError, match="messages=3"):
        PrefillNode(LLM, 3)
    with pytest.raises(InvalidRequestError, match=r"messages\(state\)=3"):
        PrefillNode(LLM, lambda state: 3).invoke({"messages": "doc"})
    with pytest.raises(InvalidRequestError, match=r"state\['messages'\]=3"):
        PrefillNode(LLM).invoke({"messages": 3})
    with pytest.raises(InvalidRequestError, match="llm="):
        PrefillNode(QUESTION_PROMPT)


async def test_a_fan_out_within_a_branch_keeps_the_outer_name():
    seen = []

    def note(messages, config):
        seen.append((config["metadata"]["kvfork_branch"], config["metadata"]["langgraph_node"]))
        return echo(messages)

    inner = ForkNode(RunnableLambda(note), {"x": "1", "y": "2"})
    llm = RunnableLambda(lambda messages: {"messages": messages}) | inner
    graph = StateGraph(DictState)
    graph.add_node("fork", ForkNode(llm, {"a": "1", "b": "2"}, output_key="answers"))
    graph.add_edge(START, "fork")
    state = {"messages": [HumanMessage("doc")]}
    graph.compile().invoke(state)
    await graph.compile().ainvoke(state)
    assert sorted(seen) == sorted(2 * [(f"{a}/{x}", "fork") for a in "ab" for x in "xy"])


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_a_trace_has_the_branches_and_nothing_of_what_runs_them(asynchronous):
    class Runs(BaseTracer):
        def _persist_run(self, run):
            self.root = run

    tracer = Runs()
    node, state, config = ForkNode(ECHO, {"a": "1"}), {"messages": "doc"}, {"callbacks": [tracer]}
    await node.ainvoke(state, config) if asynchronous else node.invoke(state, config)
    (branch,) = tracer.root.child_runs
    assert (branch.name, branch.tags) == ("branch:a", ["branch:a"])
    assert branch.extra["metadata"]["kvfork_branch"] == "a"


async def test_what_a_branch_writes_to_the_custom_stream_arrives():
    def write(messages):
        get_stream_writer()(messages[-1].content)
        return echo(messages)

    def judge(answer, writer):
        writer("judged")
        return True

    for race in (False, judge):
        node = ForkNode(RunnableLambda(write), {"a": "1"}, output_key="answers", race=race)
        graph = StateGraph(DictState)
        graph.add_node("fork", node)
        graph.add_edge(START, "fork")
        compiled, state = graph.compile(), {"messages": [SystemMessage("doc")]}
        expected = ["1", "judged"] if race else ["1"]
        assert list(compiled.stream(state, stream_mode="custom")) == expected
        assert [x async for x in compiled.astream(state, stream_mode="custom")] == expected
