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


async def run(n_ctx, *, asynchronous):
    llm = ChatKVFork(n_ctx=n_ctx, temperature=0, max_tokens=120, ignore_eos=True)
    llm.engine.clear()
    before = llm.engine.stats()
    with warnings.catch_warnings(record=True) as caught, ForkReport() as report:
        warnings.simplefilter("always")
        await call(mapped(llm), {}, asynchronous=asynchronous)
        stats = llm.engine.stats()
    llm.engine.close()
    told = [str(w.message) for w in caught if w.category is SmallPoolWarning]
    return told, report, stats.preemptions - before.preemptions


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_a_map_over_chunks_says_what_a_small_pool_cost(asynchronous, monkeypatch):
    monkeypatch.setattr(small_pool, "_told", set())
    (sentence,), report, preemptions = await run(768, asynchronous=asynchronous)
    assert preemptions > 0
    assert report.preemptions == preemptions
    assert report.recomputed_tokens > 0
    assert f"{report.recomputed_tokens:,} tokens were computed again" in sentence
    assert f"n_ctx=768 was too small for {N} branches" in sentence
    assert f"{report.recomputed_tokens:,} tokens were computed again" in str(report)
    assert small_pool._groups == {}
    enough = int(re.findall(r"n_ctx=(\d+)", sentence)[1])
    told, report, preemptions = await run(enough, asynchronous=asynchronous)
    assert (told, report.preemptions, preemptions) == ([], 0, 0)
    assert "too small" not in str(report)
