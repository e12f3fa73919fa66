"""Time limits and cancelling reach the engine; a node that prefills or waits is not idle."""

import asyncio
from typing import Any, TypedDict

import pytest
from helpers import await_until, idle, wait_until
from langchain_core.messages import HumanMessage, SystemMessage
from langgraph.errors import NodeTimeoutError
from langgraph.graph import START, StateGraph
from langgraph.types import TimeoutPolicy

from langgraph_kvfork import ChatKVFork, GenerationTimeoutError

QUESTION = "Tell me a story."


class State(TypedDict):
    messages: list[Any]


@pytest.fixture(scope="module")
def slow():
    """In small batches, so that a prefill is long and each of its steps short.

    In one thread, so that no step waits for a core that others keep.
    """
    model = ChatKVFork(
        n_ctx=4096, n_batch=16, n_ubatch=16, n_threads=1, temperature=0, max_tokens=4
    )
    yield model
    model.engine.close()


@pytest.fixture
def endless(llm, engine):
    return llm.model_copy(update={"max_tokens": None, "ignore_eos": True})


def graph_of(nodes, timeout):
    graph = StateGraph(State)
    for name, node in nodes.items():
        graph.add_node(name, node, timeout=timeout)
        graph.add_edge(START, name)
    return graph.compile()


async def test_a_long_prefill_keeps_a_node_alive_and_so_it_does_those_who_wait_for_it(
    slow, document
):
    usages = {}

    def ask(name):
        async def node(state):
            answer = await slow.ainvoke([*state["messages"], HumanMessage(name)])
            usages[name] = answer

        return node

    # nothing but heartbeats counts; the prefill takes 140 steps, and several such limits
    limit = TimeoutPolicy(idle_timeout=1.0, refresh_on="heartbeat")
    graph = graph_of({name: ask(name) for name in ("owner", "waiter")}, limit)
    await graph.ainvoke({"messages": document})
    forked = [m.usage_metadata["input_token_details"]["cache_read"] for m in usages.values()]
    assert sorted(forked)[0] == 0
    assert sorted(forked)[1] > 2000


async def test_a_long_answer_keeps_a_node_alive(llm, engine):
    async def node(state):
        await llm.ainvoke(QUESTION, max_tokens=200, ignore_eos=True)

    limit = TimeoutPolicy(idle_timeout=0.5, refresh_on="heartbeat")
    before = engine.stats().generated_tokens
    await graph_of({"talk": node}, limit).ainvoke({"messages": []})
    assert engine.stats().generated_tokens - before == 200


@pytest.mark.parametrize("prefills", [False, True])
@pytest.mark.parametrize("room", [{"n_ctx": 4096, "n_seq_max": 1}, {"n_ctx": 1024}])
async def test_a_node_that_waits_for_others_to_end_is_alive(excerpt, room, prefills):
    narrow = ChatKVFork(**room, n_threads=1, n_batch=32, n_ubatch=32, temperature=0, max_tokens=4)
    with narrow.engine as engine:
        endless = narrow.bind(max_tokens=None, ignore_eos=True, share_prefix=False)
        # two of it do not fit into 1,024 cells; one has room for 400 tokens, some seconds' worth
        excerpt = [SystemMessage(2 * excerpt[0].content)]
        # one who has the only sequence, or too many cells, for several idle limits
        busy = asyncio.create_task(endless.ainvoke(excerpt))
        await await_until(lambda: engine.stats().generated_tokens > 0)

        async def node(state):
            waiting = asyncio.create_task(
                narrow.aprefill(excerpt) if prefills else narrow.ainvoke(excerpt)
            )
            await await_until(lambda: engine.stats().branches_waiting == 1)
            await asyncio.sleep(1.5)
            assert not busy.done()
            busy.cancel()
            await waiting

        limit = TimeoutPolicy(idle_timeout=0.5, refresh_on="heartbeat")
        await graph_of({"wait": node}, limit).ainvoke({"messages": []})


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_nodes_time_limit_stops_its_branch_in_the_engine(endless, engine, streaming):
    async def node(state):
        if streaming:
            async for _ in endless.astream(QUESTION):
                pass
        else:
            await endless.ainvoke(QUESTION)

    with pytest.raises(NodeTimeoutError):
        await graph_of({"talk": node}, TimeoutPolicy(run_timeout=0.5)).ainvoke({"messages": []})
    await await_until(lambda: idle(engine))


async def test_cancelling_a_task_stops_its_branch_in_the_engine(endless, engine):
    task = asyncio.create_task(endless.ainvoke(QUESTION))
    await await_until(lambda: engine.stats().branches_running == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await await_until(lambda: idle(engine))


async def test_a_generator_that_is_closed_stops_its_branch_in_the_engine(endless, engine):
    stream = endless.stream(QUESTION)
    next(stream)
    stream.close()
    wait_until(lambda: idle(engine))
    astream = endless.astream(QUESTION)
    await anext(astream)
    await astream.aclose()
    await await_until(lambda: idle(engine))


async def test_a_calls_time_limit_stops_its_branch_in_the_engine(endless, engine):
    bound = endless.bind(timeout=0.2)
    with pytest.raises(GenerationTimeoutError, match=r"timeout=0\.2"):
        bound.invoke(QUESTION)
    with pytest.raises(GenerationTimeoutError):
        await bound.ainvoke(QUESTION)
    with pytest.raises(GenerationTimeoutError):
        list(endless.stream(QUESTION, timeout=0.2))
    with pytest.raises(GenerationTimeoutError):
        async for _ in endless.astream(QUESTION, timeout=0.2):
            pass
    with pytest.raises(GenerationTimeoutError):
        list(endless.model_copy(update={"timeout": 0.2}).stream(QUESTION))
    await await_until(lambda: idle(engine))
