"""Branches of threads whose caller has given up are cancelled, and no others."""

import asyncio
import operator
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, TypedDict

import pytest
from helpers import await_until, idle, wait_until
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langgraph.graph import START, StateGraph

from langgraph_kvfork import BranchCancelledError

QUESTIONS = ["Tell me a story.", "Tell me a joke.", "Why is the sky blue?"]
MOST = 800


class State(TypedDict):
    texts: Annotated[list, operator.add]


@pytest.fixture
def endless(llm):
    return llm.model_copy(update={"max_tokens": MOST, "ignore_eos": True})


@pytest.fixture
def sigint():
    """SIGINT as a terminal's program has it; shells let their background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def graph_of(*nodes):
    builder = StateGraph(State)
    for i, node in enumerate(nodes):
        builder.add_node(str(i), node)
        builder.add_edge(START, str(i))
    return builder.compile()


def asking(llm):
    return lambda state: {"texts": [llm.invoke("Tell me a story.").text]}


def batch(llm):
    llm.batch(QUESTIONS)


def batch_of_a_chain(llm):
    (RunnableLambda(lambda text: text) | llm).batch(QUESTIONS)


def streams_in_a_pool(llm):
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda text: list(llm.stream(text)), QUESTIONS))


def parallel(llm):
    RunnableParallel(a=llm, b=llm, c=llm).invoke("Tell me a story.")


def graph_of_plain_nodes(llm):
    graph_of(asking(llm), asking(llm), asking(llm)).invoke({"texts": []})


def graph_with_a_batch_in_a_node(llm):
    graph_of(lambda state: {"texts": llm.batch(QUESTIONS)}).invoke({"texts": []})


def graph_with_a_parallel_in_a_node(llm):
    parallels = RunnableParallel(a=llm, b=llm, c=llm)
    graph_of(lambda state: {"texts": [parallels.invoke("Hello.")]}).invoke({"texts": []})


@pytest.mark.parametrize(
    "work",
    [
        batch,
        batch_of_a_chain,
        streams_in_a_pool,
        parallel,
        graph_of_plain_nodes,
        graph_with_a_batch_in_a_node,
        graph_with_a_parallel_in_a_node,
    ],
)
def test_ctrl_c_stops_what_other_threads_compute(endless, engine, sigint, work):
    before = engine.stats().generated_tokens
    main = threading.main_thread().ident

    def interrupt():
        wait_until(lambda: engine.stats().branches_running == 3)
        signal.pthread_kill(main, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        work(endless)
    interrupter.join()
    wait_until(lambda: idle(engine))
    assert engine.stats().generated_tokens - before < MOST


def test_the_step_timeout_of_a_sync_graph_stops_its_nodes(endless, engine):
    graph = graph_of(asking(endless), asking(endless))
    graph.step_timeout = 0.5
    before = engine.stats().generated_tokens
    with pytest.raises(TimeoutError):
        graph.invoke({"texts": []})
    wait_until(lambda: idle(engine))
    assert engine.stats().generated_tokens - before < MOST


def test_a_node_that_fails_stops_the_others_of_its_step(endless, engine):
    def failing(state):
        wait_until(lambda: engine.stats().branches_running == 1)
        raise KeyError("mine")

    before = engine.stats().generated_tokens
    with pytest.raises(KeyError, match="mine"):
        graph_of(asking(endless), failing).invoke({"texts": []})
    assert engine.stats().generated_tokens - before < MOST


async def test_an_async_graph_that_is_cancelled_stops_its_sync_nodes(endless, engine):
    before = engine.stats().generated_tokens
    run = graph_of(asking(endless), asking(endless)).ainvoke({"texts": []})
    task = asyncio.create_task(run)
    await await_until(lambda: engine.stats().branches_running == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await await_until(lambda: idle(engine))
    assert engine.stats().generated_tokens - before < MOST


def test_somebody_who_catches_an_error_has_his_other_results(llm, engine):
    model = llm.model_copy(update={"max_tokens": 64, "ignore_eos": True})
    futures = []

    def fail_beside():
        with ThreadPoolExecutor() as pool:
            futures.append(pool.submit(model.invoke, "Hello"))
            wait_until(lambda: engine.stats().branches_running == 1)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail_beside()
    assert futures[0].result().usage_metadata["output_tokens"] == 64


def test_work_that_begins_while_an_error_is_handled_goes_on(llm, engine):
    try:
        raise KeyError
    except KeyError:
        with ThreadPoolExecutor() as pool:
            futures = [pool.submit(llm.invoke, text) for text in QUESTIONS]
    assert all(future.result().text for future in futures)


def test_the_thread_says_why_it_has_no_answer(endless, engine, sigint):
    main = threading.main_thread().ident

    def interrupt():
        wait_until(lambda: engine.stats().branches_running == 1)
        signal.pthread_kill(main, signal.SIGINT)

    futures = []

    def ask():
        with ThreadPoolExecutor() as pool:
            futures.append(pool.submit(endless.invoke, "Hello"))
            futures[0].result()

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        ask()
    with pytest.raises(BranchCancelledError, match="whoever waited for it has given up"):
        futures[0].result()
