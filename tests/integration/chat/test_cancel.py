"""A branch that fails, is cancelled or runs out of room harms no other, and its cells come back."""

import _thread
import asyncio
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers import await_until, call, idle, wait_until
from langchain_core.messages import HumanMessage

from langgraph_kvfork import (
    BranchCancelledError,
    ContextOverflowError,
    ForkNode,
    InvalidRequestError,
    Request,
)

# long enough to be cancelled in the middle, and the same whatever batches it is computed in
TEXTS = {f"b{i}": f"I am branch number {i} and I will say this to my very end." for i in range(8)}


def ask(llm, excerpt, name, **kwargs):
    messages = [*excerpt, HumanMessage(f"Question {name}?")]
    options = {"grammar": f'root ::= "{TEXTS[name]}"', "max_tokens": 64, **kwargs}
    return llm.ainvoke(messages, **options)


async def run_beside_seven(llm, excerpt, odd_one):
    """Run seven branches and an odd one; return how that ended."""
    others = [asyncio.create_task(ask(llm, excerpt, name)) for name in list(TEXTS)[1:]]
    odd = asyncio.create_task(odd_one)
    (result,) = await asyncio.gather(odd, return_exceptions=True)
    answers = await asyncio.gather(*others)
    assert [a.text for a in answers] == list(TEXTS.values())[1:]
    assert {a.response_metadata["finish_reason"] for a in answers} == {"stop"}
    return result


async def test_a_cancelled_branch(llm, engine, excerpt):
    latency = None

    async def cancelled():
        nonlocal latency
        task = asyncio.create_task(ask(llm, excerpt, "b0", grammar=None, ignore_eos=True))
        await await_until(lambda: engine.stats().branches_running == 8)
        start = time.perf_counter()
        task.cancel()
        try:
            await task
        finally:
            latency = time.perf_counter() - start

    result = await run_beside_seven(llm, excerpt, cancelled())
    assert isinstance(result, asyncio.CancelledError)
    assert latency < 0.1


async def test_a_branch_with_a_bad_grammar(llm, engine, excerpt):
    odd = ask(llm, excerpt, "b0", grammar="root ::= (")
    result = await run_beside_seven(llm, excerpt, odd)
    assert isinstance(result, InvalidRequestError)


async def test_a_branch_with_a_bad_parameter(llm, engine, excerpt):
    odd = ask(llm, excerpt, "b0", temperature=-1)
    result = await run_beside_seven(llm, excerpt, odd)
    assert isinstance(result, InvalidRequestError)


async def test_a_branch_that_can_never_fit(llm, engine, excerpt):
    odd = llm.ainvoke([*excerpt, HumanMessage("word " * 6000)])
    result = await run_beside_seven(llm, excerpt, odd)
    assert isinstance(result, ContextOverflowError)


async def test_a_branch_whose_stop_string_hits_at_once(llm, engine, excerpt):
    odd = ask(llm, excerpt, "b0", stop=["I"])
    result = await run_beside_seven(llm, excerpt, odd)
    assert result.text == ""
    assert result.response_metadata["finish_reason"] == "stop"


async def test_cancelling_while_the_prefix_is_prefilled_leaves_it_to_the_others(
    llm, engine, document
):
    first = asyncio.create_task(ask(llm, document, "b0"))
    before = engine.stats().prefilled_tokens
    await await_until(lambda: engine.stats().prefilled_tokens > before)
    others = [asyncio.create_task(ask(llm, document, name)) for name in ("b1", "b2")]
    await asyncio.sleep(0.05)
    first.cancel()
    answers = await asyncio.gather(*others)
    assert [a.text for a in answers] == [TEXTS["b1"], TEXTS["b2"]]


async def test_a_stream_that_is_left_early_stops(llm, engine):
    endless = llm.model_copy(update={"max_tokens": None, "ignore_eos": True})
    for _ in endless.stream("Tell me a story."):
        break
    async for _ in endless.astream("Tell me a story."):
        break
    # the loop closes what was left when it comes to it
    await await_until(lambda: idle(engine))


@pytest.fixture
def sigint():
    """SIGINT as a terminal's program has it; shells let their background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_stops_a_sync_call(llm, engine, sigint):
    endless = llm.model_copy(update={"max_tokens": None, "ignore_eos": True})
    timer = threading.Timer(0.5, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        endless.invoke("Tell me a story.")
    timer.join()
    wait_until(lambda: idle(engine))


def test_a_branch_that_another_thread_cancels_says_so(engine):
    branch = engine.generate("Once upon a time", Request(max_tokens=None, ignore_eos=True))
    next(branch)
    threading.Timer(0.2, branch.cancel).start()
    with pytest.raises(BranchCancelledError):
        list(branch)


def test_a_process_that_ends_while_a_branch_is_computed_says_nothing(document):
    program = (
        "import sys; from langgraph_kvfork import ChatKVFork; "
        "branch = ChatKVFork(n_ctx=4096).engine.generate(sys.argv[1]); next(branch)"
    )
    command = [sys.executable, "-c", program, document[0].content]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_when_a_branch_of_a_fork_node_fails_the_others_are_cancelled(
    llm, engine, excerpt, asynchronous
):
    endless = llm.model_copy(update={"max_tokens": None, "ignore_eos": True})
    node = ForkNode(endless, {"a": "Tell me a story.", "b": "word " * 6000, "c": "Hello."})
    start = time.perf_counter()
    with pytest.raises(ContextOverflowError):
        await call(node, {"messages": excerpt}, asynchronous=asynchronous)
    wait_until(lambda: idle(engine))
    # to the end of the context it would have taken minutes
    assert time.perf_counter() - start < 30
