"""One branch of any graph fails, is cancelled or takes too long: LangGraph's own semantics hold.

What comes out, how many calls are cut off and whether tasks are left running is what comes of any
other model in the same graph. The engine is idle within a step, no cell is lost, and the next
fan-out is as good as any.
"""

import asyncio
import itertools
import time
from typing import Any

import graph_shapes
import pytest
from graph_shapes import LETTER, SHAPES, Runner
from helpers import Recorder, await_until, idle, prompt_tokens
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGenerationChunk
from langgraph.errors import NodeTimeoutError

from langgraph_kvfork import ChatKVFork, ForkNode, GenerationTimeoutError

LIMIT = 0.1
"""Seconds; a branch that has to be cut off would take minutes."""


class Fault:
    """What befalls one of a graph's calls, while those beside it are under way.

    Args:
        kind: What happens.
        asynchronous: Whether LangGraph can cancel the other calls; if so they go on until it does.
        first: The number of the superstep's first call.
        victim: The number of the call that it befalls.
    """

    def __init__(self, kind, asynchronous, first=0, victim=1):
        self.kind = kind
        self.asynchronous = asynchronous
        # those are not a call's own, and may come as early as they like
        self.first, self.victim = (
            (0, None) if kind in ("node_timeout", "step_timeout") else (first, victim)
        )
        self.struck = asyncio.Event()
        self._calls = itertools.count()
        self._begun = []
        self._ended = []

    def begin(self):
        """Return whether the next call is the one, and its arguments."""
        call = next(self._calls)
        self._begun.append(call)
        strikes = call == self.victim
        arguments = {}
        if strikes or (self.asynchronous and call >= self.first):
            # before Python 3.11, LangGraph goes on without a node that was cancelled
            most = 64 if self.kind == "cancelled" else None
            arguments = {"max_tokens": most, "ignore_eos": True}
        if strikes and self.kind == "call_timeout":
            arguments["timeout"] = LIMIT
        return strikes, arguments

    def strike(self):
        if self.kind == "raises":
            raise ZeroDivisionError("struck")
        if self.kind == "cancelled" and self.asynchronous:
            asyncio.current_task().cancel()
        elif self.kind == "cancelled":
            raise asyncio.CancelledError
        elif self.kind == "run_cancelled":
            self.struck.set()

    def end(self):
        self._ended.append(None)

    def n_cut(self):
        """Return how many calls have begun and not come to their end."""
        return len(self._begun) - len(self._ended)


class Faulty(BaseChatModel):
    """A model that something happens to in the middle of a call."""

    fault: Any

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        strikes, arguments = self.fault.begin()
        kwargs.update(arguments)
        for chunk in super()._stream(messages, stop, run_manager, **kwargs):
            yield chunk
            if strikes:
                self.fault.strike()
        self.fault.end()

    async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
        strikes, arguments = self.fault.begin()
        kwargs.update(arguments)
        async for chunk in super()._astream(messages, stop, run_manager, **kwargs):
            yield chunk
            if strikes:
                self.fault.strike()
        self.fault.end()


class Plain(BaseChatModel):
    """Any other model: a word every 5 ms."""

    def _stream(
        self, messages, stop=None, run_manager=None, *, max_tokens=4, timeout=None, **kwargs
    ):
        for said in _words(max_tokens, timeout):
            time.sleep(0.005)
            yield said

    async def _astream(
        self, messages, stop=None, run_manager=None, *, max_tokens=4, timeout=None, **kwargs
    ):
        for said in _words(max_tokens, timeout):
            await asyncio.sleep(0.005)
            yield said

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        return generate_from_stream(self._stream(messages, stop, run_manager, **kwargs))

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        stream = self._astream(messages, stop, run_manager, **kwargs)
        return generate_from_stream(iter([chunk async for chunk in stream]))

    @property
    def _llm_type(self):
        return "plain"


def _words(max_tokens, timeout):
    deadline = None if timeout is None else time.monotonic() + timeout
    for _ in itertools.count() if max_tokens is None else range(max_tokens):
        if deadline is not None and time.monotonic() > deadline:
            raise GenerationTimeoutError("too late")
        yield ChatGenerationChunk(message=AIMessageChunk("word "))


class FaultyPlain(Faulty, Plain):
    pass


class FaultyKVFork(Faulty, ChatKVFork):
    pass


async def outcome(shape, llm, config):
    """Return which exception comes out of a shape, how many calls are cut off, and what is left."""
    fault = llm.fault
    runner = Runner(llm, fault.asynchronous, config)
    if fault.kind == "node_timeout":
        runner.node_timeout = LIMIT
    if fault.kind == "step_timeout":
        runner.step_timeout = LIMIT if fault.asynchronous else 0.01
    before = asyncio.all_tasks()
    run = asyncio.create_task(shape(runner))
    if fault.kind == "run_cancelled":
        await fault.struck.wait()
        run.cancel()
    (error,) = await asyncio.gather(run, return_exceptions=True)
    # LangGraph does not wait for a node that it cancels
    for _ in range(8):
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - before
    n_cut = fault.n_cut()
    # of subgraphs beside one that fails; as `asyncio.run` does in the end
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    return type(error), n_cut, bool(left)


WHERE = {
    # first call of the superstep, and the one that it befalls
    graph_shapes.a_supervisor_with_parallel_sub_agents: (1, 2),
    graph_shapes.interrupted_and_resumed_in_another_invocation: (3, 3),
    graph_shapes.time_travel_and_a_fork_of_the_past: (3, 3),
    graph_shapes.a_retried_node: (1, 1),
    graph_shapes.a_cached_node: (0, 0),
}

KINDS = [
    *(("sync", kind) for kind in ("raises", "cancelled", "call_timeout", "step_timeout")),
    *(("async", kind) for kind in ("raises", "cancelled", "call_timeout", "step_timeout")),
    # LangGraph cancels no thread, and refuses time limits for nodes that run in one
    *(("async", kind) for kind in ("run_cancelled", "node_timeout")),
]


@pytest.mark.parametrize(("way", "kind"), KINDS, ids=map("-".join, KINDS))
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
async def test_one_branch(llm, engine, shape, way, kind):
    def fault():
        return Fault(kind, way == "async", *WHERE.get(shape, ()))

    given = {name: getattr(llm, name) for name in llm.model_fields_set}
    faulty = FaultyKVFork(**{**given, "max_tokens": 4}, fault=fault())
    assert faulty.engine is engine
    recorder, before = Recorder(), engine.stats()
    error, *left = await outcome(shape, faulty, recorder.config())

    # at most the step that was under way
    steps = engine.stats().steps
    await await_until(lambda: idle(engine))
    assert engine.stats().steps - steps <= 1

    expected, *plain_left = await outcome(shape, FaultyPlain(fault=fault()), Recorder().config())
    assert issubclass(error, expected)
    if way == "async":
        assert left == plain_left
    else:  # other than those of any model, our calls end in threads whose caller has given up
        assert left[0] >= plain_left[0]
        assert left[1:] == plain_left[1:]
    if kind == "raises":
        assert error is ZeroDivisionError
    elif kind == "call_timeout":
        assert issubclass(error, GenerationTimeoutError)
    elif kind == "node_timeout":
        assert error is NodeTimeoutError

    check_cells(engine, before, recorder.prompts)
    await check_the_next_fan_out(llm, way == "async")


def check_cells(engine, before, prompts):
    """Check that cells are held by nothing but snapshots of what was computed."""
    stats = engine.stats()
    computed = {
        tokens[:i]
        for tokens in (tuple(prompt_tokens(engine, p)) for p in prompts)
        for i in range(1, len(tokens) + 1)
    }
    said = stats.generated_tokens - before.generated_tokens
    in_a_page = 63  # tokens at most that a fork copies
    assert stats.cells_used <= len(computed) + said + in_a_page * stats.snapshots
    assert (stats.cells_used > 0) == (stats.snapshots > 0)
    assert stats.preemptions == before.preemptions


async def check_the_next_fan_out(llm, asynchronous):
    """Check texts that the model is sure of."""
    shown = [HumanMessage("Repeat: one"), AIMessage("one one one")]
    shown += [HumanMessage("Repeat: two"), AIMessage("two two two")]
    words = ("seven", "green")
    node = ForkNode(llm.bind(max_tokens=2), {word: f"Repeat: {word}" for word in words})
    state = {"messages": [LETTER, *shown]}
    result = await node.ainvoke(state) if asynchronous else node.invoke(state)
    assert {name: answer.text for name, answer in result["branches"].items()} == {
        word: f"{word} {word}" for word in words
    }
