"""What a run's prefixes outlast, and when they are let go: counted, in a cache that is small."""

import asyncio
import operator
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, TypedDict

import pytest
from helpers import call, idle, prompt_tokens, wait_until
from langchain_core.messages import AnyMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from langgraph_kvfork import ChatKVFork, ForkNode, PrefillNode
from langgraph_kvfork.hooks import runs

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
QUESTIONS = [f"Which word is number {n} in this text?" for n in range(8)]


class State(TypedDict, total=False):
    messages: list[AnyMessage]
    answers: Annotated[list[AnyMessage], operator.add]
    kept: Annotated[list[int], operator.add]
    branches: list[AnyMessage]


@pytest.fixture(scope="module")
def small():
    """A model whose cache holds the excerpt and two prompts of `others` beside it."""
    model = ChatKVFork(n_ctx=768, temperature=0, max_tokens=4)
    yield model
    model.engine.close()


@pytest.fixture(scope="module")
def excerpt(document):
    """About 200 tokens of it."""
    return [SystemMessage(document[0].content[:1000])]


@pytest.fixture
def small_engine(small):
    engine = small.engine
    engine.clear()
    yield engine
    wait_until(lambda: idle(engine) and nothing_kept(engine))
    assert not runs._runs._runs


def nothing_kept(engine):
    return engine.stats().snapshots_kept == 0


def unrelated(n):
    return [HumanMessage(f"{n} {'word ' * 120}")]


class Others:
    """Another run, which fills the cache whenever it is told to, and goes on until the end."""

    def __init__(self, llm):
        self.llm = llm
        self.n_calls = 0
        self._over = threading.Event()
        self._turn = threading.Semaphore(0)
        self._done = threading.Semaphore(0)

    def __enter__(self):
        # a context of its own: not a part of whoever tells it
        self._pool = ThreadPoolExecutor(1)
        self._run = self._pool.submit(RunnableLambda(self._work).invoke, None)
        return self

    def __exit__(self, *args):
        self._over.set()
        self._turn.release()
        self._run.result()
        self._pool.shutdown()

    def fill(self):
        self._turn.release()
        self._done.acquire()

    def _work(self, _):
        while self._turn.acquire() and not self._over.is_set():
            try:
                for _ in range(3):
                    self.llm.invoke(unrelated(self.n_calls))
                    self.n_calls += 1
            finally:
                self._done.release()


def prefilled(answers):
    return [m.response_metadata["fork"]["prefilled_tokens"] for m in answers]


def in_common(engine, prompts):
    tokens = [prompt_tokens(engine, prompt) for prompt in prompts]
    n = next(i for i, column in enumerate(zip(*tokens, strict=False)) if len(set(column)) > 1)
    return n, [len(t) - n for t in tokens]


def test_waves_of_sync_branches_prefill_the_document_once(small, small_engine, excerpt):
    prompts = [[*excerpt, HumanMessage(q)] for q in QUESTIONS]
    common, own = in_common(small_engine, prompts)

    def branch(prompt, others):
        def ask(state):
            answer = small.invoke(prompt)
            if prompt in prompts[:3]:
                others.fill()
            return {"answers": [answer]}

        return ask

    with Others(small) as others:
        graph = StateGraph(State)
        for i, prompt in enumerate(prompts):
            graph.add_node(str(i), branch(prompt, others))
            graph.add_edge(START, str(i))
        result = graph.compile().invoke({"messages": excerpt}, {"max_concurrency": 3})
    assert others.n_calls == 9
    assert common <= sum(prefilled(result["answers"])) <= common + sum(own)


@both
async def test_what_a_prefill_node_read_is_there_for_the_fan_out(
    small, small_engine, excerpt, asynchronous
):
    common, own = in_common(small_engine, [[*excerpt, HumanMessage(q)] for q in QUESTIONS])

    async def aroute(state):
        await asyncio.to_thread(others.fill)
        for n in range(100, 104):
            await small.ainvoke(unrelated(n))
        return {}

    def route(state):
        others.fill()
        for n in range(100, 104):
            small.invoke(unrelated(n))
        return {}

    graph = StateGraph(State)
    graph.add_node("read", PrefillNode(small))
    graph.add_node("route", aroute if asynchronous else route)
    graph.add_node("panel", ForkNode(small, QUESTIONS))
    graph.add_edge(START, "read")
    graph.add_edge("read", "route")
    graph.add_edge("route", "panel")
    with Others(small) as others:
        result = await call(graph.compile(), {"messages": excerpt}, asynchronous=asynchronous)
    # where the excerpt ends and the question begins, tokens may be other ones
    assert max(prefilled(result["branches"])) <= max(own) + 8

    # the run is over: others take its place
    for n in range(4):
        small.invoke(unrelated(n))
    (answer,) = (
        await call(ForkNode(small, n=1), {"messages": excerpt}, asynchronous=asynchronous)
    )["branches"]
    assert prefilled([answer])[0] > common // 2


@both
async def test_an_interrupted_run_keeps_what_it_needs(small, small_engine, excerpt, asynchronous):
    prompt = [*excerpt, HumanMessage(QUESTIONS[0])]

    def ask(state):
        answer = small.invoke(prompt)
        more = interrupt("Go on?")
        return {"answers": [answer, small.invoke([*prompt, answer, HumanMessage(more)])]}

    async def aask(state):
        answer = await small.ainvoke(prompt)
        more = interrupt("Go on?")
        return {"answers": [answer, await small.ainvoke([*prompt, answer, HumanMessage(more)])]}

    graph = StateGraph(State)
    graph.add_node("ask", aask if asynchronous else ask)
    graph.add_edge(START, "ask")
    graph = graph.compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    await call(graph, {"messages": excerpt}, config, asynchronous=asynchronous)
    assert small_engine.stats().snapshots_kept == 1
    assert not runs._runs._runs
    with Others(small) as others:
        others.fill()
        others.fill()
        resumed = await call(graph, Command(resume="Yes."), config, asynchronous=asynchronous)
    again, then = resumed["answers"]
    assert prefilled([again]) == [1]  # for its logits
    assert prefilled([then])[0] < 40
    small_engine.clear()


@pytest.mark.parametrize("streaming", [False, True], ids=["at once", "streaming"])
@both
async def test_calls_within_a_run_are_marked_and_let_go_at_its_end(
    small, small_engine, excerpt, asynchronous, streaming
):
    def ask(state):
        small.invoke(excerpt)
        return {"kept": [small_engine.stats().snapshots_kept]}

    async def aask(state):
        await small.ainvoke(excerpt)
        return {"kept": [small_engine.stats().snapshots_kept]}

    inner = StateGraph(State)
    inner.add_node("ask", aask if asynchronous else ask)
    inner.add_edge(START, "ask")
    outer = StateGraph(State)
    outer.add_node("inner", inner.compile())
    outer.add_edge(START, "inner")
    graph = outer.compile()
    state = {"messages": excerpt, "kept": [small_engine.stats().snapshots_kept]}
    if not streaming:
        values = await call(graph, state, asynchronous=asynchronous)
    else:
        how = {"stream_mode": ["messages", "values"], "subgraphs": True}
        stream = graph.astream(state, **how) if asynchronous else graph.stream(state, **how)
        items = [i async for i in stream] if asynchronous else list(stream)
        assert sum(mode == "messages" for _, mode, _ in items) > 1
        values = items[-1][-1]
    assert values["kept"][-1] == 1
    wait_until(lambda: nothing_kept(small_engine))

    small.invoke(excerpt)  # a call by itself keeps nothing
    assert nothing_kept(small_engine)


@both
async def test_a_run_that_fails_lets_go(small, small_engine, excerpt, asynchronous):
    seen = []

    def fail(state):
        small.invoke(excerpt)
        seen.append(small_engine.stats().snapshots_kept)
        raise ValueError("as it should")

    async def afail(state):
        await small.ainvoke(excerpt)
        seen.append(small_engine.stats().snapshots_kept)
        raise ValueError("as it should")

    graph = StateGraph(State)
    graph.add_node("fail", afail if asynchronous else fail)
    graph.add_edge(START, "fail")
    with pytest.raises(ValueError, match="as it should"):
        await call(graph.compile(), {"messages": excerpt}, asynchronous=asynchronous)
    assert seen == [1]


async def test_a_run_that_is_cancelled_lets_go(small, small_engine, excerpt):
    reached = asyncio.Event()

    async def hang(state):
        await small.ainvoke(excerpt)
        reached.set()
        await asyncio.sleep(60)

    graph = StateGraph(State)
    graph.add_node("hang", hang)
    graph.add_edge(START, "hang")
    task = asyncio.create_task(graph.compile().ainvoke({"messages": excerpt}))
    await reached.wait()
    assert small_engine.stats().snapshots_kept == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    wait_until(lambda: nothing_kept(small_engine))
