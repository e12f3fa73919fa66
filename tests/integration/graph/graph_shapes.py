"""The shapes of graph that people build, each once, for all tests that run through them.

A shape is a function that builds its graph, runs it and returns what it comes to. All ask about one
letter, and take the model and the way to run it from a `Runner`.
"""

import asyncio
import operator
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

from helpers import call
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import CachePolicy, Command, RetryPolicy, Send, interrupt

from langgraph_kvfork import ForkNode

LETTER = SystemMessage(
    "Answer from this letter. Dear Ada, the garden behind your house did well. The tomatoes came "
    "early, the beans late. In June the snails ate the lettuce, and in August the pump broke, so "
    "that we carried water from the river for nine days. Yours, Charles."
)


class State(TypedDict, total=False):
    topic: str
    answers: Annotated[list[str], operator.add]
    summary: str


@dataclass
class Runner:
    """How a shape is run.

    Attributes:
        llm: Who answers.
        asynchronous: Whether by `ainvoke`.
        config: For every invocation; it names a thread.
        node_timeout: Seconds that a node may take; LangGraph has it for asynchronous ones only.
        step_timeout: Seconds that a superstep may take.
    """

    llm: Any
    asynchronous: bool
    config: RunnableConfig
    node_timeout: float | None = None
    step_timeout: float | None = None

    def graph(self, state=State):
        graph = StateGraph(state)
        if self.node_timeout is not None:
            graph.set_node_defaults(timeout=self.node_timeout)
        return graph

    async def invoke(self, compiled, state, **config):
        compiled.step_timeout = self.step_timeout
        return await call(
            compiled, state, {**self.config, **config}, asynchronous=self.asynchronous
        )


def asks(llm, prompt, result):
    """Return a node that asks `prompt(state)` and returns `result(state, answer)`."""

    async def aask(state):
        return result(state, await llm.ainvoke(prompt(state)))

    return RunnableLambda(lambda state: result(state, llm.invoke(prompt(state))), aask)


def add_answer(state, answer):
    return {"answers": [answer.text]}


def question(text):
    return lambda state: [LETTER, HumanMessage(text)]


def sum_up(llm):
    def prompt(state):
        return [LETTER, HumanMessage("Sum up: " + "; ".join(state["answers"]))]

    return asks(llm, prompt, lambda state, answer: {"summary": answer.text})


def fan_out(runner, nodes):
    graph = runner.graph()
    for name, node in nodes.items():
        graph.add_node(name, node)
        graph.add_edge(START, name)
    return graph


def panel_then(runner, names, node):
    """Several in parallel, and then a node that sees what they said."""
    llm = runner.llm
    panel = {name: asks(llm, question(f"What about {name}?"), add_answer) for name in names}
    graph = fan_out(runner, panel)
    graph.add_node("then", node)
    graph.add_edge(list(names), "then")
    return graph


async def static_fan_out(runner):
    graph = panel_then(runner, "abcd", sum_up(runner.llm))
    return await runner.invoke(graph.compile(), {"answers": []})


async def send_map_reduce_of_32(runner):
    graph = runner.graph()
    llm = runner.llm
    ask = asks(llm, lambda s: [LETTER, HumanMessage(f"What about {s['topic']}?")], add_answer)
    graph.add_node("ask", ask)
    graph.add_node("reduce", sum_up(llm))
    sends = [Send("ask", {"topic": f"topic {i}"}) for i in range(32)]
    graph.add_conditional_edges(START, lambda state: sends, ["ask"])
    graph.add_edge("ask", "reduce")
    return await runner.invoke(graph.compile(), {"answers": []})


async def two_levels_of_subgraphs_that_fan_out(runner):
    def leaf(path):
        return asks(runner.llm, question(f"Question {path}?"), add_answer)

    def inner(path):
        return fan_out(runner, {name: leaf(path + name) for name in "ab"}).compile()

    def middle(path):
        return fan_out(runner, {name: inner(path + name) for name in "cd"}).compile()

    graph = fan_out(runner, {name: middle(name) for name in "ef"})
    return await runner.invoke(graph.compile(), {"answers": []})


async def an_entrypoint_and_its_tasks(runner):
    prompts = {i: question(f"What about number {i}?")(None) for i in (1, 2, 3, 4)}

    if runner.asynchronous:

        @task(timeout=runner.node_timeout)
        async def ask(i):
            return (await runner.llm.ainvoke(prompts[i])).text

        @entrypoint()
        async def workflow(numbers):
            answers = await asyncio.gather(*(ask(i) for i in numbers))
            return (await runner.llm.ainvoke(question("; ".join(answers))(None))).text

    else:

        @task
        def ask(i):
            return runner.llm.invoke(prompts[i]).text

        @entrypoint()
        def workflow(numbers):
            answers = [future.result() for future in [ask(i) for i in numbers]]
            return runner.llm.invoke(question("; ".join(answers))(None)).text

    return await runner.invoke(workflow, list(prompts))


async def a_supervisor_with_parallel_sub_agents(runner):
    def prompt(state):
        reports = "\n".join(state["answers"])
        return [LETTER, HumanMessage("Who should work?"), AIMessage("All."), HumanMessage(reports)]

    def route(state):
        return END if len(state["answers"]) >= 4 else ["gardener", "plumber"]

    graph = runner.graph()
    graph.add_node("supervisor", asks(runner.llm, prompt, add_answer))
    for name in ("gardener", "plumber"):
        ask = asks(runner.llm, question(f"You are a {name}. Report."), add_answer)
        graph.add_node(name, ask)
        graph.add_edge(name, "supervisor")
    graph.add_edge(START, "supervisor")
    graph.add_conditional_edges("supervisor", route, ["gardener", "plumber", END])
    return await runner.invoke(graph.compile(), {"answers": []})


async def three_rounds_of_debate(runner):
    class Debate(State):
        rounds: int

    speakers = ("optimist", "pessimist", "realist")

    def speaks(name):
        def prompt(state):
            said = [HumanMessage(text) for text in sorted(state["answers"])]
            return [LETTER, *said, HumanMessage(f"You are the {name}. Speak.")]

        def result(state, answer):
            return {"answers": [f"{state['rounds']} {name}: {answer.text}"]}

        return asks(runner.llm, prompt, result)

    def count(state):
        return {"rounds": state["rounds"] + 1}

    async def acount(state):
        return count(state)

    graph = runner.graph(Debate)
    graph.add_node("next", RunnableLambda(count, acount))
    for name in speakers:
        graph.add_node(name, speaks(name))
    graph.add_edge(START, "next")
    graph.add_conditional_edges(
        "next", lambda s: END if s["rounds"] > 3 else list(speakers), [*speakers, END]
    )
    graph.add_edge(list(speakers), "next")
    return await runner.invoke(graph.compile(), {"answers": [], "rounds": 0})


async def best_of_eight(runner):
    class Best(TypedDict, total=False):
        messages: list[Any]
        branches: list[Any]
        summary: str

    def prompt(state):
        answers = "\n".join(f"{i}. {a.text}" for i, a in enumerate(state["branches"]))
        return [*state["messages"], HumanMessage(f"Which is best?\n{answers}")]

    graph = runner.graph(Best)
    graph.add_node("sample", ForkNode(runner.llm.bind(temperature=1, seed=7), n=8))
    judge = asks(runner.llm, prompt, lambda state, answer: {"summary": answer.text})
    graph.add_node("judge", judge)
    graph.add_edge(START, "sample")
    graph.add_edge("sample", "judge")
    return await runner.invoke(graph.compile(), {"messages": question("What broke?")(None)})


async def interrupted_and_resumed_in_another_invocation(runner):
    """Return what each of the two invocations comes to."""
    llm = runner.llm
    draft = question("Write a draft.")

    def final(text):
        return [*draft(None), AIMessage("A draft."), HumanMessage(text)]

    def finish(state):
        llm.invoke(draft(state))
        return {"summary": llm.invoke(final(interrupt("Good?"))).text}

    async def afinish(state):
        await llm.ainvoke(draft(state))
        return {"summary": (await llm.ainvoke(final(interrupt("Good?")))).text}

    graph = panel_then(runner, "ab", RunnableLambda(finish, afinish))
    compiled = graph.compile(checkpointer=InMemorySaver())
    paused = await runner.invoke(compiled, {"answers": []})
    # the node begins again: its first call is the same one
    return paused, await runner.invoke(compiled, Command(resume="Shorter."))


async def time_travel_and_a_fork_of_the_past(runner):
    """Return what the invocation from the changed checkpoint comes to."""
    graph = panel_then(runner, "ab", sum_up(runner.llm)).compile(checkpointer=InMemorySaver())
    await runner.invoke(graph, {"answers": []})
    past = next(s for s in graph.get_state_history(runner.config) if s.next == ("then",))
    await runner.invoke(graph, None, **past.config)
    other = graph.update_state(past.config, {"answers": ["And a third thing."]}, as_node="b")
    return await runner.invoke(graph, None, **other)


async def a_retried_node(runner):
    attempts = []

    def result(state, answer):
        attempts.append(answer)
        if len(attempts) == 1:
            raise ConnectionError("try again")
        return {"summary": answer.text}

    graph = runner.graph()
    retry = RetryPolicy(initial_interval=0.01, jitter=False, retry_on=ConnectionError)
    node = asks(runner.llm, question("What broke?"), result)
    graph.add_node("ask", node, retry_policy=retry)
    graph.add_edge(START, "ask")
    return await runner.invoke(graph.compile(), {"answers": []})


async def a_cached_node(runner):
    """Return what two invocations come to."""
    graph = runner.graph()
    node = asks(runner.llm, question("What broke?"), lambda s, answer: {"summary": answer.text})
    graph.add_node("ask", node, cache_policy=CachePolicy())
    graph.add_edge(START, "ask")
    compiled = graph.compile(cache=InMemoryCache())
    first = await runner.invoke(compiled, {"answers": []})
    return first, await runner.invoke(compiled, {"answers": []})


SHAPES = (
    static_fan_out,
    send_map_reduce_of_32,
    two_levels_of_subgraphs_that_fan_out,
    an_entrypoint_and_its_tasks,
    a_supervisor_with_parallel_sub_agents,
    three_rounds_of_debate,
    best_of_eight,
    interrupted_and_resumed_in_another_invocation,
    time_travel_and_a_fork_of_the_past,
    a_retried_node,
    a_cached_node,
)
