"""Branches that ask: each gets its own answer, and only what has not finished runs again."""

import asyncio
import operator
import time
from collections import Counter
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, SystemMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import Command, RetryPolicy, Send, interrupt

from langgraph_kvfork import ForkBranch, ForkNode, TreeSearchNode

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
NAMES = ["a", "b", "c"]
INPUT = {"messages": [SystemMessage("doc")]}


class State(TypedDict, total=False):
    messages: list[Any]
    branches: Any
    paths: Any


class Panel:
    """Branches that ask their own name, some after a while; a speed may turn on the second run.

    Args:
        asking: The branches that ask, and how often.
        late: The branches that take longer, run by run.
    """

    def __init__(self, asking, late=((), ())):
        self.asking = asking
        self.late = [*late, ()]
        self.runs = 0
        self.calls = Counter()
        self.finished = Counter()

    def ask(self, messages):
        name = messages[-1].content
        self.calls[name] += 1
        if name in self.late[self.runs]:
            time.sleep(0.1)
        return self.answer(name)

    async def aask(self, messages):
        name = messages[-1].content
        self.calls[name] += 1
        if name in self.late[self.runs]:
            await asyncio.sleep(0.1)
        return self.answer(name)

    def answer(self, name):
        said = [interrupt(f"{name}{i}") for i in range(self.asking.get(name, 0))]
        self.finished[name] += 1
        return AIMessage(f"{name}: {' '.join(map(str, said))}")

    def llm(self):
        return RunnableLambda(self.ask, self.aask)


class Conversation:
    """A graph of one node, and a thread of it."""

    def __init__(self, node, *, asynchronous, checkpointer=None, schema=State, **kwargs):
        graph = StateGraph(schema)
        graph.add_node("fork", node, **kwargs)
        graph.add_edge(START, "fork")
        self.graph = graph.compile(checkpointer=checkpointer or InMemorySaver())
        self.config = {"configurable": {"thread_id": "1"}}
        self.asynchronous = asynchronous

    async def run(self, given):
        if self.asynchronous:
            return await self.graph.ainvoke(given, self.config)
        return self.graph.invoke(given, self.config)

    async def answer(self, result, only=None):
        """Answer what a run asked, by the interrupts' ids."""
        asked = [i for i in result["__interrupt__"] if only is None or i.value in only]
        return await self.run(Command(resume={i.id: f"<{i.value}>" for i in asked}))


def asked(result):
    return sorted(interrupt.value for interrupt in result.get("__interrupt__", ()))


def texts(answers):
    return {name: answer.content for name, answer in answers.items()}


@both
@pytest.mark.parametrize("late", [("a", "b"), ("b", "a")])
async def test_each_branch_gets_its_own_answer_whoever_is_faster(late, asynchronous):
    panel = Panel({"a": 1, "b": 1}, late=late)
    talk = Conversation(
        ForkNode(panel.llm(), {name: name for name in NAMES}), asynchronous=asynchronous
    )
    result = await talk.run(INPUT)
    assert asked(result) == ["a0", "b0"]
    panel.runs = 1
    result = await talk.answer(result)
    assert texts(result["branches"]) == {"a": "a: <a0>", "b": "b: <b0>", "c": "c: "}
    assert panel.calls == {"a": 2, "b": 2, "c": 1}


@both
async def test_branches_can_be_answered_one_at_a_time(asynchronous):
    panel = Panel({"a": 1, "b": 1}, late=("a", "b"))
    talk = Conversation(
        ForkNode(panel.llm(), {name: name for name in NAMES}), asynchronous=asynchronous
    )
    result = await talk.answer(await talk.run(INPUT), only=["b0"])
    assert asked(result) == ["a0"]
    result = await talk.run(Command(resume="plain"))
    assert texts(result["branches"]) == {"a": "a: plain", "b": "b: <b0>", "c": "c: "}
    assert panel.finished == {"a": 1, "b": 1, "c": 1}
    assert panel.calls["c"] == 1


@both
async def test_a_branch_may_ask_twice(asynchronous):
    panel = Panel({"a": 2, "b": 3}, late=("a", "b", "a"))
    talk = Conversation(ForkNode(panel.llm(), ["a", "b"]), asynchronous=asynchronous)
    result = await talk.run(INPUT)
    for expected in (["a0", "b0"], ["a1", "b1"], ["b2"]):
        assert asked(result) == expected
        panel.runs = min(panel.runs + 1, 2)
        result = await talk.answer(result)
    assert [m.content for m in result["branches"]] == ["a: <a0> <a1>", "b: <b0> <b1> <b2>"]


@both
@pytest.mark.parametrize("output", ["dict", "list"])
async def test_samples_ask_too(output, asynchronous):
    async def aanswer(messages):
        return AIMessage(interrupt("which?"))

    llm = RunnableLambda(lambda messages: AIMessage(interrupt("which?")), aanswer)
    talk = Conversation(ForkNode(llm, n=3, output=output), asynchronous=asynchronous)
    result = await talk.run(INPUT)
    answers = {i.id: str(k) for k, i in enumerate(result["__interrupt__"])}
    assert len(answers) == 3
    result = (await talk.run(Command(resume=answers)))["branches"]
    said = result.values() if output == "dict" else result
    assert sorted(m.content for m in said) == ["0", "1", "2"]


def test_another_process_goes_on():
    state, saver = {"messages": [SystemMessage("doc")]}, InMemorySaver()
    for panel in (Panel({"a": 1, "b": 1}), Panel({"a": 1, "b": 1})):
        talk = Conversation(
            ForkNode(panel.llm(), {name: name for name in NAMES}),
            asynchronous=False,
            checkpointer=saver,
        )
        config = talk.config
        if not talk.graph.get_state(config).next:
            talk.graph.invoke(state, config)
            continue
        asks = talk.graph.get_state(config).interrupts
        result = talk.graph.invoke(Command(resume={i.id: f"<{i.value}>" for i in asks}), config)
        assert texts(result["branches"]) == {"a": "a: <a0>", "b": "b: <b0>", "c": "c: "}
        assert panel.calls == {"a": 1, "b": 1}


@both
async def test_a_tool_of_an_agent_in_a_branch_asks(asynchronous):
    @tool
    def ask(about: str) -> str:
        """Ask."""
        return interrupt(about)

    class Talk(TypedDict):
        messages: Annotated[list[Any], operator.add]

    agent = StateGraph(Talk)
    agent.add_node("model", lambda state: {"messages": [AIMessage("I ask.")]})
    agent.add_node(
        "tool", lambda state: {"messages": [AIMessage(ask.invoke(state["messages"][0].content))]}
    )
    agent.add_edge(START, "model")
    agent.add_edge("model", "tool")
    compiled = agent.compile()
    llm = (
        RunnableLambda(lambda messages: {"messages": messages[-1:]})
        | compiled
        | (lambda state: state["messages"][-1])
    )
    talk = Conversation(ForkNode(llm, {"a": "x", "b": "y"}), asynchronous=asynchronous)
    result = await talk.run(INPUT)
    assert asked(result) == ["x", "y"]
    result = await talk.answer(result)
    assert texts(result["branches"]) == {"a": "<x>", "b": "<y>"}


@both
async def test_fan_outs_within_a_fan_out_ask(asynchronous):
    panel = Panel({"a": 1, "b": 1}, late=("a", "b"))
    inner = ForkNode(panel.llm(), ["a", "b"])
    llm = RunnableLambda(lambda messages: {"messages": [*messages, AIMessage("so")]}) | inner
    talk = Conversation(ForkNode(llm, {"x": "1", "y": "2"}), asynchronous=asynchronous)
    result = await talk.run(INPUT)
    assert asked(result) == ["a0", "a0", "b0", "b0"]
    panel.runs = 1
    answers = {i.id: f"{k}{i.value}" for k, i in enumerate(result["__interrupt__"])}
    result = (await talk.run(Command(resume=answers)))["branches"]
    said = [m.content for each in ("x", "y") for m in result[each]["branches"]]
    assert [text[:2] for text in said] == ["a:", "b:", "a:", "b:"]
    assert sorted(text[3:] for text in said) == sorted(answers.values())


@both
async def test_two_fan_outs_in_one_node_keep_apart(asynchronous):
    panel = Panel({"a": 1, "b": 1})
    fork = ForkNode(panel.llm(), ["a", "b"])

    def twice(state):
        first = fork.invoke(state)["branches"]
        return {"branches": [*first, *fork.invoke(state)["branches"]]}

    async def atwice(state, config):
        first = (await fork.ainvoke(state, config))["branches"]
        return {"branches": [*first, *(await fork.ainvoke(state, config))["branches"]]}

    talk = Conversation(atwice if asynchronous else twice, asynchronous=asynchronous)
    result = await talk.run(INPUT)
    assert asked(result) == ["a0", "b0"]
    first = {i.id for i in result["__interrupt__"]}
    result = await talk.answer(result)
    assert asked(result) == ["a0", "b0"]
    assert not first & {i.id for i in result["__interrupt__"]}
    again = {i.id: f"again {i.value}" for i in result["__interrupt__"]}
    result = await talk.run(Command(resume=again))
    said = [m.content for m in result["branches"]]
    assert said == ["a: <a0>", "b: <b0>", "a: again a0", "b: again b0"]


@both
async def test_a_winner_needs_no_answers(asynchronous):
    panel = Panel({"a": 1}, late=("b",))
    talk = Conversation(ForkNode(panel.llm(), ["a", "b"], race=True), asynchronous=asynchronous)
    result = await talk.run(INPUT)
    assert [m.content for m in result["branches"]] == ["b: "]
    assert "__interrupt__" not in result


@both
async def test_a_person_judges_a_race(asynchronous):
    panel = Panel({})
    node = ForkNode(panel.llm(), ["a", "b"], race=lambda answer: interrupt(answer.content) == "yes")
    talk = Conversation(node, asynchronous=asynchronous)
    result = await talk.run(INPUT)
    assert asked(result) == ["a: ", "b: "]
    answers = {i.id: "yes" if i.value == "b: " else "no" for i in result["__interrupt__"]}
    result = await talk.run(Command(resume=answers))
    assert [m.content for m in result["branches"]] == ["b: "]


@both
async def test_a_person_scores_a_tree(asynchronous):
    calls = Counter()

    def answer(messages):
        calls[len(messages)] += 1
        return AIMessage(f"{len(messages)}.{calls[len(messages)]}")

    node = TreeSearchNode(
        RunnableLambda(answer), lambda path: int(interrupt(path[-1].content)), n=2, depth=2
    )
    talk = Conversation(node, asynchronous=asynchronous)
    result = await talk.run(INPUT)
    assert asked(result) == ["1.1", "1.2"]
    scores = {"1.1": "1", "1.2": "2"}
    result = await talk.run(
        Command(resume={i.id: scores[i.value] for i in result["__interrupt__"]})
    )
    assert asked(result) == ["3.1", "3.2", "3.3", "3.4"]
    answers = {i.id: i.value[-1] for i in result["__interrupt__"]}
    result = await talk.run(Command(resume=answers))
    assert [path["messages"][-1].content for path in result["paths"]] == ["3.4", "3.3"]
    assert calls == {1: 2, 3: 4}


#
# attempts
#


def with_flaky(panel, flaky):
    own = RunnableLambda(flaky.call, flaky.acall)
    return ForkNode(panel.llm(), {"a": "a", "b": "b", "c": ForkBranch("c", own)})


class Flaky:
    """A branch that fails on its first attempts, once the others have finished."""

    def __init__(self, failures, panel):
        self.failures = failures
        self.panel = panel
        self.attempts = 0

    def call(self, messages):
        self.attempts += 1
        if self.attempts > self.failures:
            return AIMessage("at last")
        while sum(self.panel.finished.values()) < 2:
            time.sleep(0.001)
        time.sleep(0.05)  # until LangGraph has taken note of it
        raise ConnectionError("flaky")

    async def acall(self, messages):
        return await asyncio.to_thread(self.call, messages)


AT_ONCE = RetryPolicy(initial_interval=0.001, jitter=False, max_attempts=5)


@both
@pytest.mark.parametrize("kept", [False, True], ids=["no checkpointer", "checkpointer"])
async def test_another_attempt_runs_what_has_not_finished(kept, asynchronous):
    panel = Panel({})
    flaky = Flaky(2, panel)
    node = with_flaky(panel, flaky)
    graph = StateGraph(State)
    graph.add_node("fork", node, retry_policy=AT_ONCE)
    graph.add_edge(START, "fork")
    compiled = graph.compile(checkpointer=InMemorySaver() if kept else None)
    config = {"configurable": {"thread_id": "1"}}
    result = (
        await compiled.ainvoke(INPUT, config) if asynchronous else compiled.invoke(INPUT, config)
    )
    assert texts(result["branches"]) == {"a": "a: ", "b": "b: ", "c": "at last"}
    assert flaky.attempts == 3
    assert panel.calls == {"a": 1, "b": 1}


@both
async def test_a_failed_run_goes_on_from_its_checkpoint(asynchronous):
    panel = Panel({})
    flaky = Flaky(1, panel)
    node = with_flaky(panel, flaky)
    talk = Conversation(node, asynchronous=asynchronous)
    with pytest.raises(ConnectionError):
        await talk.run(INPUT)
    result = await talk.run(None)
    assert texts(result["branches"]) == {"a": "a: ", "b": "b: ", "c": "at last"}
    assert panel.calls == {"a": 1, "b": 1}


@both
async def test_an_attempt_after_which_somebody_is_asked(asynchronous):
    panel = Panel({})
    flaky = Flaky(1, panel)

    def call(messages):
        flaky.call(messages)
        return AIMessage(interrupt("sure?"))

    node = ForkNode(panel.llm(), {"a": "a", "b": "b", "c": ForkBranch("c", RunnableLambda(call))})
    talk = Conversation(node, asynchronous=asynchronous, retry_policy=AT_ONCE)
    result = await talk.run(INPUT)
    assert asked(result) == ["sure?"]
    result = await talk.answer(result)
    assert texts(result["branches"]) == {"a": "a: ", "b": "b: ", "c": "<sure?>"}
    assert panel.calls == {"a": 1, "b": 1}


@both
async def test_a_loop_forks_anew_each_time(asynchronous):
    panel = Panel({"a": 1})
    graph = StateGraph(State)
    graph.add_node("fork", ForkNode(panel.llm(), ["a", "b"]))
    graph.add_node("more", lambda state: {"messages": [*state["messages"], AIMessage("more")]})
    graph.add_edge(START, "fork")
    graph.add_edge("fork", "more")
    graph.add_conditional_edges("more", lambda s: "fork" if len(s["messages"]) < 3 else "__end__")
    compiled = graph.compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    result = compiled.invoke(INPUT, config)
    for i in range(2):
        assert asked(result) == ["a0"]
        result = compiled.invoke(Command(resume=str(i)), config)
        assert result["branches"][0].content == f"a: {i}"
    assert panel.finished == {"a": 2, "b": 2}


@both
async def test_time_travel_computes_again(asynchronous):
    panel = Panel({})
    talk = Conversation(ForkNode(panel.llm(), ["a", "b"]), asynchronous=asynchronous)
    await talk.run(INPUT)
    before = next(s for s in talk.graph.get_state_history(talk.config) if s.next == ("fork",))
    talk.config = before.config
    result = await talk.run(None)
    assert [m.content for m in result["branches"]] == ["a: ", "b: "]
    assert panel.calls == {"a": 2, "b": 2}


def test_a_branch_hands_over_to_the_graph_around():
    inner = StateGraph(State)
    inner.add_node("go", lambda state: Command(graph=Command.PARENT, goto="other"))
    inner.add_edge(START, "go")
    llm = RunnableLambda(lambda messages: {"messages": messages}) | inner.compile()
    graph = StateGraph(State)
    graph.add_node("fork", ForkNode(llm, ["a"]))
    graph.add_node("other", lambda state: {"branches": "handed over"})
    graph.add_edge(START, "fork")
    assert graph.compile().invoke(INPUT)["branches"] == "handed over"


@both
async def test_nodes_sent_to_at_once_keep_their_branches_apart(asynchronous):
    class Sums(TypedDict, total=False):
        messages: list[Any]
        branches: Annotated[list[Any], operator.add]

    panel = Panel({"a": 1})
    graph = StateGraph(Sums)
    graph.add_node("fork", ForkNode(panel.llm(), ["a", "b"]))
    graph.add_conditional_edges(START, lambda state: [Send("fork", INPUT)] * 2, ["fork"])
    compiled = graph.compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}

    async def run(given):
        return (
            await compiled.ainvoke(given, config)
            if asynchronous
            else compiled.invoke(given, config)
        )

    result = await run(INPUT)
    assert asked(result) == ["a0", "a0"]
    result = await run(
        Command(resume={i.id: str(k) for k, i in enumerate(result["__interrupt__"])})
    )
    assert sorted(m.content for m in result["branches"]) == ["a: 0", "a: 1", "b: ", "b: "]


def test_in_the_functional_api():
    panel = Panel({"a": 1, "b": 1}, late=("a", "b"))
    fork = ForkNode(panel.llm(), ["a", "b"])

    @task
    def ask(messages):
        return [m.content for m in fork.invoke({"messages": messages})["branches"]]

    @entrypoint(checkpointer=InMemorySaver())
    def flow(messages):
        return ask(messages).result()

    config = {"configurable": {"thread_id": "1"}}
    result = flow.invoke(INPUT["messages"], config)
    assert asked(result) == ["a0", "b0"]
    panel.runs = 1
    answers = {i.id: f"<{i.value}>" for i in result["__interrupt__"]}
    assert flow.invoke(Command(resume=answers), config) == ["a: <a0>", "b: <b0>"]
