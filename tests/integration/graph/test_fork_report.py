"""A report's numbers are the engine's own."""

import asyncio
from typing import Any, TypedDict

import pytest
from helpers import call, idle, wait_until
from langchain_core.caches import InMemoryCache
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from langgraph.graph import START, StateGraph

from langgraph_kvfork import (
    ContextOverflowError,
    Engine,
    EngineParams,
    ForkBranch,
    ForkNode,
    ForkReport,
    PrefillNode,
)
from langgraph_kvfork.engine.default_model import smollm2_path

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


class State(TypedDict):
    messages: list[Any]
    branches: dict[str, Any]
    summary: Any


def panel(llm):
    """Read ahead, fan out in a subgraph, join."""

    def join(state):
        return {"summary": llm.invoke([*state["messages"], HumanMessage("Sum it up.")])}

    async def ajoin(state):
        return {"summary": await llm.ainvoke([*state["messages"], HumanMessage("Sum it up.")])}

    inner = StateGraph(State)
    inner.add_node("panel", ForkNode(llm, {"a": "Why?", "b": "How?", "c": "When?"}))
    inner.add_edge(START, "panel")
    graph = StateGraph(State)
    graph.add_node("read", PrefillNode(llm))
    graph.add_node("experts", inner.compile())
    graph.add_node("join", RunnableLambda(join, ajoin))
    graph.add_edge(START, "read")
    graph.add_edge("read", "experts")
    graph.add_edge("experts", "join")
    return graph.compile()


def check(report, before, after):
    assert report.prefilled_tokens == after.prefilled_tokens - before.prefilled_tokens
    assert report.forked_tokens == after.forked_tokens - before.forked_tokens
    assert report.generated_tokens == after.generated_tokens - before.generated_tokens


@both
@pytest.mark.parametrize("way", ["with", "callbacks"])
async def test_totals_equal_the_engines_counters(llm, engine, excerpt, way, asynchronous):
    before = engine.stats()
    report = ForkReport()
    if way == "with":
        with report:
            await call(panel(llm), {"messages": excerpt}, asynchronous=asynchronous)
    else:
        config = {"callbacks": [report]}
        await call(panel(llm), {"messages": excerpt}, config, asynchronous=asynchronous)
    after = engine.stats()
    check(report, before, after)
    assert {(c.node, c.branch_name, c.kind) for c in report.calls} == {
        ("read", "", "prefill"),
        ("experts/panel", "a", "answer"),
        ("experts/panel", "b", "answer"),
        ("experts/panel", "c", "answer"),
        ("join", "", "answer"),
    }
    # all were forked from what was read ahead, or from one another
    assert {c.parent_id for c in report.calls[1:]} <= {c.branch_id for c in report.calls}
    assert report.unfinished == 0
    assert 0 < report.saved_tokens == report.prompt_tokens - report.prefilled_tokens
    assert all(c.ended_ms - c.decode_ms >= 0 for c in report.calls)

    llm.invoke("Outside.", max_tokens=1)
    check(report, before, after)


async def test_streams_tasks_and_plain_calls_are_counted_too(llm, engine, excerpt):
    before = engine.stats()
    with ForkReport() as outer, ForkReport() as report:
        llm.invoke("Hello.", ignore_eos=True)
        list(llm.stream("Hello.", ignore_eos=True))
        await asyncio.gather(*(llm.ainvoke([*excerpt, HumanMessage(f"{i}?")]) for i in range(3)))
        state = {"messages": excerpt}
        async for _ in panel(llm).astream(state, stream_mode=["messages", "custom"]):
            pass
        FakeListChatModel(responses=["not ours"]).invoke("Hello.")
    check(report, before, engine.stats())
    assert len(report.calls) == 5 + 5
    assert sorted(c.branch_id for c in outer.calls) == sorted(c.branch_id for c in report.calls)
    check(outer, before, engine.stats())


async def test_calls_that_failed_or_were_cancelled_are_counted_apart(llm, engine, excerpt):
    endless = llm.model_copy(update={"max_tokens": None, "ignore_eos": True})
    with ForkReport() as report:
        with pytest.raises(ContextOverflowError):
            llm.invoke("word " * 6000)
        task = asyncio.create_task(endless.ainvoke("Tell me a story."))
        await asyncio.sleep(0.3)
        assert (report.unfinished, report.cancelled) == (2, 0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (report.unfinished, report.cancelled) == (2, 1)
        for _ in endless.stream("Tell me a story."):
            break
        llm.invoke("Hello.")
    assert (report.unfinished, report.cancelled) == (3, 2)
    assert len(report.calls) == 1
    wait_until(lambda: idle(engine))


@both
async def test_branches_that_lost_a_race_were_cancelled(llm, engine, asynchronous):
    endless = llm.model_copy(update={"max_tokens": None, "ignore_eos": True})
    branches = {"short": "Why?", "a": ForkBranch("How?", endless), "b": ForkBranch("Who?", endless)}
    state = {"messages": [HumanMessage("A fork.")]}
    with ForkReport() as report:
        await call(ForkNode(llm, branches, race=True), state, asynchronous=asynchronous)
    assert (report.unfinished, report.cancelled) == (2, 2)
    assert str(report).endswith("Calls that are not counted: 2 cancelled.")


def test_what_langchains_response_cache_knew_was_not_computed(llm, engine):
    cached = llm.model_copy(update={"cache": InMemoryCache()})
    before = engine.stats()
    with ForkReport() as report:
        first, second = cached.invoke("Hello."), cached.invoke("Hello.")
    assert first.text == second.text
    check(report, before, engine.stats())
    assert len(report.calls) == 1


def test_without_sharing_a_report_says_that_nothing_was_saved(llm, engine, excerpt):
    before = engine.stats()
    alone = llm.model_copy(update={"share_prefix": False})
    with ForkReport() as report:
        panel(alone).invoke({"messages": excerpt})
    check(report, before, engine.stats())
    assert report.saved_tokens == report.forked_tokens == 0
    assert len(report.calls) == 4


def test_the_memory_that_forks_share_is_what_the_cells_say(llm, engine, excerpt):
    with ForkReport() as report:
        PrefillNode(llm).invoke({"messages": excerpt})
        ForkNode(llm, {"a": "Why?", "b": "How?", "c": "When?"}).invoke({"messages": excerpt})
    # the last token of an answer is in no cell
    alone = sum(c.prompt_tokens + max(c.generated_tokens - 1, 0) for c in report.calls)
    shared = alone - engine.stats().cells_used
    assert shared > 0
    assert report.shared_bytes == shared * 23_040


@pytest.mark.parametrize(("type_k", "expected"), [("f16", 23_040), ("q8_0", 17_640)])
def test_a_tokens_bytes_follow_the_types_of_the_cache(type_k, expected):
    params = EngineParams(smollm2_path(), n_ctx=256, type_k=type_k, type_v="f16")
    with Engine(params) as engine:
        usage = engine.prefill("Hello.")
    # q8_0: a block of 32 values takes 34 bytes instead of 64, here of one half of the cache
    assert usage.cell_bytes == expected
