"""A pool that is too small for its fan-out: one warning, what it cost, and the `n_ctx` to give."""

import operator
import re
import warnings
from typing import Annotated

import pytest
from helpers import call
from langchain_core.runnables import RunnableLambda
from langgraph.graph import START, StateGraph
from langgraph.types import Send
from typing_extensions import TypedDict

from langgraph_kvfork import ChatKVFork, ForkReport, SmallPoolWarning
from langgraph_kvfork.chat import small_pool

N = 5
CHUNKS = [f"{i} sheep passed gate {i}. " * 12 for i in range(N)]


class State(TypedDict, total=False):
    chunk: str
    answers: Annotated[list[str], operator.add]


def mapped(llm):
    async def aread(state):
        return {"answers": [(await llm.ainvoke(state["chunk"])).text]}

    def read(state):
        return {"answers": [llm.invoke(state["chunk"]).text]}

    graph = StateGraph(State)
    graph.add_node("read", RunnableLambda(read, aread))
    graph.add_conditional_edges(START, lambda _: [Send("read", {"chunk": c}) for c in CHUNKS])
    return graph.compile()


async def run(n_ctx, *, asynchronous, max_tokens=120, n_seq_max=None):
    llm = ChatKVFork(
        n_ctx=n_ctx,
        temperature=0,
        max_tokens=max_tokens,
        ignore_eos=True,
        n_seq_max=n_seq_max,
    )
    llm.engine.clear()
    before = llm.engine.stats()
    with warnings.catch_warnings(record=True) as caught, ForkReport() as report:
        warnings.simplefilter("always")
        await call(mapped(llm), {}, asynchronous=asynchronous)
        stats = llm.engine.stats()
    llm.engine.close()
    told = [str(w.message) for w in caught if w.category is SmallPoolWarning]
    assert report.evictions == stats.evictions - before.evictions
    assert small_pool._groups == {}
    return told, report, stats.preemptions - before.preemptions


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_a_map_over_chunks_says_what_a_small_pool_cost(asynchronous, monkeypatch):
    monkeypatch.setattr(small_pool, "_warned", {})
    (sentence,), report, preemptions = await run(768, asynchronous=asynchronous)
    assert preemptions > 0
    assert report.preemptions == preemptions
    assert report.recomputed_tokens > 0
    assert f"{report.recomputed_tokens:,} tokens were computed again" in sentence
    assert f"n_ctx=768 was too small for {N} branches" in sentence
    assert f"{report.recomputed_tokens:,} tokens were computed again" in str(report)
    enough = int(re.findall(r"n_ctx=(\d+)", sentence)[1])
    told, report, preemptions = await run(enough, asynchronous=asynchronous)
    assert (told, report.preemptions, preemptions) == ([], 0, 0)
    assert "too small" not in str(report)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_a_pool_in_which_branches_only_wait(asynchronous, monkeypatch, tmp_path):
    monkeypatch.setattr(small_pool, "_warned", {})
    (sentence,), report, preemptions = await run(384, asynchronous=asynchronous, max_tokens=2)
    assert (preemptions, report.recomputed_tokens) == (0, 0)
    waited = int(re.search(r": (\d) of them had to wait until others had ended", sentence)[1])
    assert 0 < waited < N
    assert "cells" not in sentence
    assert report.evictions > 0
    assert f"{report.evictions:,} cached prefixes went to make room" in str(report)
    report.save(tmp_path / "run.json")
    assert ForkReport.load(tmp_path / "run.json").evictions == report.evictions
    enough = int(re.findall(r"n_ctx=(\d+)", sentence)[1])
    told, report, _ = await run(enough, asynchronous=asynchronous, max_tokens=2)
    assert (told, report.evictions) == ([], 0)
    assert "cached prefixes" not in str(report)


async def test_waiting_for_one_of_few_sequences_is_not_for_cells(monkeypatch):
    monkeypatch.setattr(small_pool, "_warned", {})
    told, *_ = await run(512, asynchronous=True, max_tokens=2, n_seq_max=2)
    assert told == []


async def test_waiting_for_a_prefix_is_not_for_cells(monkeypatch, excerpt):
    monkeypatch.setattr(small_pool, "_warned", {})
    llm = ChatKVFork(n_ctx=768, temperature=0, max_tokens=2)
    prompts = [[*excerpt, ("human", f"{i}?")] for i in range(8)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", SmallPoolWarning)
        with ForkReport() as report:
            await mapped_over(llm, prompts)
    assert report.forked_tokens > 7 * 300
    assert (report.evictions, small_pool._warned) == (0, {})
    llm.engine.close()


async def mapped_over(llm, prompts):
    return await RunnableLambda(lambda _: llm.batch(prompts)).ainvoke({})


def test_branches_one_at_a_time_have_all_of_the_pool(monkeypatch):
    monkeypatch.setattr(small_pool, "_warned", {})
    llm = ChatKVFork(n_ctx=384, temperature=0, max_tokens=2)
    with ForkReport() as report:
        mapped(llm).invoke({}, {"max_concurrency": 1})
    assert small_pool._warned == {}
    assert report.evictions > 0
    llm.engine.close()


def test_what_a_run_remembers_is_bounded(llm, engine, monkeypatch):
    monkeypatch.setattr(small_pool, "_MOST_CALLS", 3)
    streams = [small_pool.watched_pool(engine, 7) for _ in range(10)]
    for stream in streams:
        stream.__enter__()
    (group,) = small_pool._groups.values()
    assert len(group.calls) == 3
    for stream in streams:
        stream.__exit__(None, None, None)
    assert small_pool._groups == {}
