"""Every shape of graph that people build shares what its prompts imply, sync and async.

Bounds are computed from the rendered prompts alone: at least their token trie, less what had been
generated before; at most each superstep's common prefix once and the rest of each prompt, less what
prompts of earlier supersteps left.
"""

import asyncio
import operator
import os.path
from typing import Annotated, Any, TypedDict

import pytest
from helpers import call, prompt_tokens
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableLambda
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import CachePolicy, Command, RetryPolicy, Send, interrupt

from langgraph_kvfork import ForkNode

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])

LETTER = SystemMessage(
    "Answer from this letter. Dear Ada, the garden behind your house did well. The tomatoes came "
    "early, the beans late. In June the snails ate the lettuce, and in August the pump broke, so "
    "that we carried water from the river for nine days. Yours, Charles."
)


class State(TypedDict, total=False):
    topic: str
    answers: Annotated[list[str], operator.add]
    summary: str


@pytest.fixture(scope="session")
def llm(llm):
    return llm.model_copy(update={"max_tokens": 4})


class Recorder(BaseCallbackHandler):
    """Keeps what the model is asked, in the order of the calls."""

    run_inline = True

    def __init__(self):
        self.prompts = []

    def on_chat_model_start(self, serialized, messages, **kwargs):
        self.prompts += messages


class Run:
    """What the engine computed since it was made, against bounds from the prompts."""

    def __init__(self, engine):
        self.engine = engine
        self.before = engine.stats()
        self.recorder = Recorder()
        self.config = {"callbacks": [self.recorder], "configurable": {"thread_id": "1"}}

    def counted(self, name):
        return getattr(self.engine.stats(), name) - getattr(self.before, name)

    def check(self, *sizes):
        """Check the bounds of supersteps with so many calls each."""
        prompts = [tuple(prompt_tokens(self.engine, m)) for m in self.recorder.prompts]
        assert len(prompts) == sum(sizes)
        trie = {p[:i] for p in prompts for i in range(1, len(p) + 1)}
        prefilled = self.counted("prefill_tokens")
        assert self.counted("preemptions") == self.counted("evictions") == 0
        assert len(trie) - self.counted("decode_tokens") <= prefilled <= most(prompts, sizes)
        assert prefilled + self.counted("forked_tokens") == sum(map(len, prompts))
        # the bound says something: it is far from what it costs to share nothing
        assert len(prompts) == 1 or most(prompts, sizes) < sum(map(len, prompts))


def most(prompts, sizes):
    total, earlier = 0, []
    for size in sizes:
        step = prompts[len(earlier) : len(earlier) + size]
        common = len(os.path.commonprefix(step))
        known = [max((len(os.path.commonprefix([p, e])) for e in earlier), default=0) for p in step]
        total += max(common - max(known), 0)
        # the last token of a prompt is always computed, for its logits
        total += sum(max(len(p) - max(common, k), 1) for p, k in zip(step, known, strict=True))
        earlier += step
    return total


def asks(llm, prompt, result):
    """Return a node that asks `prompt(state)` and returns `result(state, answer)`."""

    async def aask(state):
        return result(state, await llm.ainvoke(prompt(state)))

    return RunnableLambda(lambda state: result(state, llm.invoke(prompt(state))), aask)


def add_answer(state, answer):
    return {"answers": [answer.text]}


def sum_up(llm):
    def prompt(state):
        return [LETTER, HumanMessage("Sum up: " + "; ".join(state["answers"]))]

    return asks(llm, prompt, lambda state, answer: {"summary": answer.text})


def question(text):
    return lambda state: [LETTER, HumanMessage(text)]


@both
async def test_send_map_reduce_of_32(llm, engine, asynchronous):
    graph = StateGraph(State)
    ask = asks(llm, lambda s: [LETTER, HumanMessage(f"What about {s['topic']}?")], add_answer)
    graph.add_node("ask", ask)
    graph.add_node("reduce", sum_up(llm))
    sends = [Send("ask", {"topic": f"topic {i}"}) for i in range(32)]
    graph.add_conditional_edges(START, lambda state: sends, ["ask"])
    graph.add_edge("ask", "reduce")
    run = Run(engine)
    result = await call(graph.compile(), {"answers": []}, run.config, asynchronous=asynchronous)
    assert len(result["answers"]) == 32
    run.check(32, 1)


@both
async def test_two_levels_of_subgraphs_that_fan_out(llm, engine, asynchronous):
    def fan_out(nodes):
        graph = StateGraph(State)
        for name, node in nodes.items():
            graph.add_node(name, node)
            graph.add_edge(START, name)
        return graph.compile()

    def leaf(path):
        return asks(llm, question(f"Question {path}?"), add_answer)

    def inner(path):
        return fan_out({name: leaf(path + name) for name in "ab"})

    def middle(path):
        return fan_out({name: inner(path + name) for name in "cd"})

    run = Run(engine)
    graph = fan_out({name: middle(name) for name in "ef"})
    result = await call(graph, {"answers": []}, run.config, asynchronous=asynchronous)
    # a subgraph returns all of its state, so the lists of those within are added up on the way
    assert len(result["answers"]) >= 8
    run.check(8)


async def test_an_entrypoint_and_its_tasks_async(llm, engine):
    @task
    async def ask(i):
        return (await llm.ainvoke(question(f"What about number {i}?")(None))).text

    @entrypoint()
    async def workflow(numbers):
        answers = await asyncio.gather(*(ask(i) for i in numbers))
        return (await llm.ainvoke(question("; ".join(answers))(None))).text

    run = Run(engine)
    await workflow.ainvoke([1, 2, 3, 4], run.config)
    run.check(4, 1)


def test_an_entrypoint_and_its_tasks_sync(llm, engine):
    @task
    def ask(i):
        return llm.invoke(question(f"What about number {i}?")(None)).text

    @entrypoint()
    def workflow(numbers):
        answers = [future.result() for future in [ask(i) for i in numbers]]
        return llm.invoke(question("; ".join(answers))(None)).text

    run = Run(engine)
    workflow.invoke([1, 2, 3, 4], run.config)
    run.check(4, 1)


@both
async def test_a_supervisor_with_parallel_sub_agents(llm, engine, asynchronous):
    def prompt(state):
        reports = "\n".join(state["answers"])
        return [LETTER, HumanMessage("Who should work?"), AIMessage("All."), HumanMessage(reports)]

    def route(state):
        return END if len(state["answers"]) >= 4 else ["gardener", "plumber"]

    graph = StateGraph(State)
    graph.add_node("supervisor", asks(llm, prompt, add_answer))
    for name in ("gardener", "plumber"):
        graph.add_node(name, asks(llm, question(f"You are a {name}. Report."), add_answer))
        graph.add_edge(name, "supervisor")
    graph.add_edge(START, "supervisor")
    graph.add_conditional_edges("supervisor", route, ["gardener", "plumber", END])
    run = Run(engine)
    result = await call(graph.compile(), {"answers": []}, run.config, asynchronous=asynchronous)
    assert len(result["answers"]) == 4
    run.check(1, 2, 1)


@both
async def test_three_rounds_of_debate(llm, engine, asynchronous):
    class Debate(State):
        rounds: int

    speakers = ("optimist", "pessimist", "realist")

    def speaks(name):
        def prompt(state):
            said = [HumanMessage(text) for text in sorted(state["answers"])]
            return [LETTER, *said, HumanMessage(f"You are the {name}. Speak.")]

        def result(state, answer):
            return {"answers": [f"{state['rounds']} {name}: {answer.text}"]}

        return asks(llm, prompt, result)

    graph = StateGraph(Debate)
    graph.add_node("next", lambda state: {"rounds": state["rounds"] + 1})
    for name in speakers:
        graph.add_node(name, speaks(name))
    graph.add_edge(START, "next")
    graph.add_conditional_edges(
        "next", lambda s: END if s["rounds"] > 3 else list(speakers), [*speakers, END]
    )
    graph.add_edge(list(speakers), "next")
    run = Run(engine)
    state = {"answers": [], "rounds": 0}
    result = await call(graph.compile(), state, run.config, asynchronous=asynchronous)
    assert len(result["answers"]) == 9
    run.check(3, 3, 3)


@both
async def test_best_of_eight(llm, engine, asynchronous):
    class Best(TypedDict, total=False):
        messages: list[Any]
        branches: list[Any]
        summary: str

    def prompt(state):
        answers = "\n".join(f"{i}. {a.text}" for i, a in enumerate(state["branches"]))
        return [*state["messages"], HumanMessage(f"Which is best?\n{answers}")]

    graph = StateGraph(Best)
    graph.add_node("sample", ForkNode(llm.bind(temperature=1, seed=7), n=8))
    graph.add_node("judge", asks(llm, prompt, lambda state, answer: {"summary": answer.text}))
    graph.add_edge(START, "sample")
    graph.add_edge("sample", "judge")
    run = Run(engine)
    state = {"messages": question("What broke?")(None)}
    await call(graph.compile(), state, run.config, asynchronous=asynchronous)
    run.check(8, 1)


def panel_then(llm, node):
    """Two in parallel, and then a node that sees what they said."""
    graph = StateGraph(State)
    graph.add_node("then", node)
    for name in ("a", "b"):
        graph.add_node(name, asks(llm, question(f"What about {name}?"), add_answer))
        graph.add_edge(START, name)
    graph.add_edge(["a", "b"], "then")
    return graph


@both
async def test_interrupted_and_resumed_in_another_invocation(llm, engine, asynchronous):
    draft = question("Write a draft.")

    def final(text):
        return [*draft(None), AIMessage("A draft."), HumanMessage(text)]

    def finish(state):
        llm.invoke(draft(state))
        return {"summary": llm.invoke(final(interrupt("Good?"))).text}

    async def afinish(state):
        await llm.ainvoke(draft(state))
        return {"summary": (await llm.ainvoke(final(interrupt("Good?")))).text}

    graph = panel_then(llm, RunnableLambda(finish, afinish)).compile(checkpointer=InMemorySaver())
    run = Run(engine)
    paused = await call(graph, {"answers": []}, run.config, asynchronous=asynchronous)
    assert "summary" not in paused
    await call(graph, Command(resume="Shorter."), run.config, asynchronous=asynchronous)
    # the node begins again: its first call is the same one, and costs one token
    run.check(2, 1, 1, 1)


@both
async def test_time_travel_and_a_fork_of_the_past(llm, engine, asynchronous):
    graph = panel_then(llm, sum_up(llm)).compile(checkpointer=InMemorySaver())
    run = Run(engine)
    await call(graph, {"answers": []}, run.config, asynchronous=asynchronous)
    past = next(s for s in graph.get_state_history(run.config) if s.next == ("then",))
    again = {**past.config, "callbacks": [run.recorder]}
    await call(graph, None, again, asynchronous=asynchronous)
    other = graph.update_state(past.config, {"answers": ["And a third thing."]}, as_node="b")
    result = await call(
        graph, None, {**other, "callbacks": [run.recorder]}, asynchronous=asynchronous
    )
    assert result["answers"][-1] == "And a third thing."
    run.check(2, 1, 1, 1)


@both
async def test_a_retried_node_costs_one_token(llm, engine, asynchronous):
    attempts = []

    def result(state, answer):
        attempts.append(answer)
        if len(attempts) == 1:
            raise ConnectionError("try again")
        return {"summary": answer.text}

    graph = StateGraph(State)
    retry = RetryPolicy(initial_interval=0.01, jitter=False, retry_on=ConnectionError)
    graph.add_node("ask", asks(llm, question("What broke?"), result), retry_policy=retry)
    graph.add_edge(START, "ask")
    run = Run(engine)
    await call(graph.compile(), {"answers": []}, run.config, asynchronous=asynchronous)
    run.check(1, 1)
    length = len(prompt_tokens(engine, question("What broke?")(None)))
    assert run.counted("prefill_tokens") == length + 1


@both
async def test_a_cached_node_computes_nothing(llm, engine, asynchronous):
    graph = StateGraph(State)
    ask = asks(llm, question("What broke?"), lambda state, answer: {"summary": answer.text})
    graph.add_node("ask", ask, cache_policy=CachePolicy())
    graph.add_edge(START, "ask")
    compiled = graph.compile(cache=InMemoryCache())
    run = Run(engine)
    first = await call(compiled, {"answers": []}, run.config, asynchronous=asynchronous)
    second = await call(compiled, {"answers": []}, run.config, asynchronous=asynchronous)
    assert first == second
    run.check(1)
