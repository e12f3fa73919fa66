"""Every form of fan-out: branches, samples, models, errors, races; no model computes here."""

import asyncio
import operator
import sqlite3
import threading
import time
import warnings
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from langchain_core.caches import InMemoryCache as InMemoryModelCache
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    AnyMessage,
    HumanMessage,
    SystemMessage,
)
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import (
    ConfigurableField,
    RunnableBranch,
    RunnableLambda,
    RunnableParallel,
)
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import CachePolicy, Command, RetryPolicy, interrupt
from typing_extensions import TypedDict

from langgraph_kvfork import (
    ChatKVFork,
    EqualAnswersWarning,
    ForkBranch,
    ForkNode,
    InvalidRequestError,
    PrefillNode,
    TreeSearchNode,
)
from langgraph_kvfork.branches.cancel_scope import cancel_scope, current_scope
from langgraph_kvfork.hooks.branch_arguments import calling_with

LLM = ChatKVFork(model_path="/nonexistent.gguf")
DOC = {"messages": [SystemMessage("doc")]}


def echo(messages):
    return AIMessage(" | ".join(str(m.content) for m in messages))


ECHO = RunnableLambda(echo)


def texts(answers):
    if isinstance(answers, dict):
        return {name: answer.content for name, answer in answers.items()}
    return [answer.content for answer in answers]


async def run(node, state, config=None, *, asynchronous):
    return await node.ainvoke(state, config) if asynchronous else node.invoke(state, config)


both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


#
# branches
#


@both
@pytest.mark.parametrize(
    ("branches", "expected"),
    [
        (["1", HumanMessage("2"), ("human", "3")], ["doc | 1", "doc | 2", "doc | 3"]),
        ("list", ["doc | x", "doc | y"]),
        ("dict", {"a": "doc | x"}),
        (lambda state: [f"{item}!" for item in state["list"]], ["doc | x!", "doc | y!"]),
        (lambda state: {"b": lambda s: s["list"]}, {"b": "doc | x\n\ny"}),
        ("nothing", []),
        (lambda state: {}, {}),
    ],
)
async def test_branches_may_come_from_the_state(branches, expected, asynchronous):
    state = {**DOC, "list": ["x", "y"], "dict": {"a": "x"}, "nothing": []}
    result = await run(ForkNode(ECHO, branches), state, asynchronous=asynchronous)
    assert texts(result["branches"]) == expected


@pytest.mark.parametrize(
    ("branches", "message"),
    [
        ("missing", r"no key 'missing' yet: .* the key that has them as branches=\"\.\.\.\""),
        ("text", r"state\['text'\]='x' is not possible"),
        ("numbers", r"state\['numbers'\]\[1\]=2"),
        (lambda state: 1, r"branches\(state\)=1"),
        (lambda state: {"a": [object()]}, r"branches\(state\)\['a'\]=\[<object"),
        (lambda state: {"a": [("nobody", "x")]}, r"branches\(state\)\['a'\]=\[\('nobody'"),
        (lambda state: {"a": lambda s: [("nobody", "x")]}, r"branches\['a'\]=\[\('nobody'"),
    ],
)
def test_what_is_no_branches_in_the_state_is_named(branches, message):
    state = {**DOC, "text": "x", "numbers": ["1", 2]}
    with pytest.raises(InvalidRequestError, match=message):
        ForkNode(ECHO, branches).invoke(state)


def test_shared_messages_that_are_none_are_named():
    with pytest.raises(InvalidRequestError, match=r"state\['messages'\]="):
        ForkNode(ECHO, {"a": "b"}).invoke({"messages": [object()]})


@both
async def test_a_branch_can_have_a_model_of_its_own(asynchronous):
    loud = RunnableLambda(lambda messages: AIMessage(echo(messages).content.upper()))
    node = ForkNode(ECHO, {"a": "x", "b": ForkBranch("x", loud), "c": ForkBranch("y")})
    result = await run(node, DOC, asynchronous=asynchronous)
    assert texts(result["branches"]) == {"a": "doc | x", "b": "DOC | X", "c": "doc | y"}


def test_a_wrong_branch_is_refused_when_it_is_made():
    with pytest.raises(InvalidRequestError, match="messages=''"):
        ForkBranch("")
    with pytest.raises(InvalidRequestError, match="llm='x'"):
        ForkBranch("x", "x")
    with pytest.raises(InvalidRequestError, match=r"^messages=.*: ForkBranch\(messages, llm\)\.$"):
        ForkBranch(LLM, "Why?")
    with pytest.raises(InvalidRequestError, match=r"^branches\['a'\]=\('Why\?', .*pass text"):
        ForkNode(LLM, {"a": ("Why?", ECHO)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ForkNode(LLM, ["x"], output_keys="a"),
            "ForkNode .*'output_keys'.*mean output_key",
        ),
        (lambda: ForkNode(LLM, ["x"], max_tokens=8), r"ForkNode .*: .*, llm\.bind\(max_tokens="),
        (lambda: ForkBranch("x", seed=8), r"ForkBranch .*: .*, llm\.bind\(seed="),
        (lambda: PrefillNode(LLM, key="a"), "PrefillNode .*'key'"),
        (lambda: TreeSearchNode(LLM, len, width=2), "TreeSearchNode .*'width'.*mean beam_width"),
    ],
)
def test_an_unknown_argument_is_refused_by_name(make, message):
    with pytest.raises(InvalidRequestError, match=message):
        make()


#
# samples
#


@both
async def test_n_answers_to_one_prompt(asynchronous):
    result = await run(ForkNode(ECHO, n=3), DOC, asynchronous=asynchronous)
    assert texts(result["branches"]) == ["doc"] * 3


class Drawing(ChatKVFork):
    """A chat model that answers with the seed that it would give to the engine."""

    model_path: str | None = "/nonexistent.gguf"

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        yield ChatGenerationChunk(message=AIMessageChunk(self.drawn(stop, kwargs)))

    async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
        yield ChatGenerationChunk(message=AIMessageChunk(self.drawn(stop, kwargs)))

    def drawn(self, stop, kwargs):
        seed = self._call(stop, kwargs).request.seed
        return "random" if seed in (None, -1) else str(seed)


class Failing(Drawing):
    """A chat model that answers nothing."""

    def drawn(self, stop, kwargs):
        raise ValueError("out of order")


class Other(TypedDict):
    messages: list[Any]


def agent_of(llm):
    graph = StateGraph(Other)
    graph.add_node("model", lambda state: {"messages": [llm.invoke(state["messages"])]})
    graph.add_edge(START, "model")
    answer = RunnableLambda(lambda state: state["messages"][-1])
    return RunnableLambda(lambda messages: {"messages": messages}) | graph.compile() | answer


DRAWING = Drawing(seed=5)
JUDGE = RunnableLambda(lambda message: AIMessage(message.content))
WRAPPED = {
    "itself": DRAWING,
    "bind": Drawing().bind(seed=5),
    "with_config": DRAWING.with_config(tags=["x"]),
    "with_retry": DRAWING.with_retry(),
    "with_fallbacks": DRAWING.with_fallbacks([Drawing(seed=9)]),
    "fallback": Failing().with_fallbacks([DRAWING]),
    "with_listeners": DRAWING.with_listeners(on_start=lambda run: None),
    "with_types": DRAWING.with_types(output_type=AIMessage),
    "configurable_fields": Drawing()
    .configurable_fields(seed=ConfigurableField("s"))
    .with_config(configurable={"s": 5}),
    "configurable_alternatives": DRAWING.configurable_alternatives(
        ConfigurableField("which"), other=Drawing(seed=9)
    ),
    "behind a function": RunnableLambda(lambda messages: messages) | DRAWING,
    "within a function": RunnableLambda(lambda messages: DRAWING.invoke(messages)),
    "before a function": DRAWING | JUDGE,
    "returned by a function": RunnableLambda(lambda messages: DRAWING),
    "in parallel": RunnableParallel(a=DRAWING, b=DRAWING) | (lambda both: both["a"]),
    "in a branch": RunnableBranch((lambda messages: True, DRAWING), DRAWING),
    "in a map": RunnableLambda(lambda messages: [messages]) | DRAWING.map() | (lambda x: x[0]),
    "include_raw": DRAWING.with_structured_output(
        {"type": "object", "title": "t"}, include_raw=True
    )
    | (lambda answer: answer["raw"]),
    "in a graph": agent_of(DRAWING),
    "nested": (RunnableLambda(lambda m: m) | DRAWING.bind(top_k=2).with_retry()).with_fallbacks([]),
}


@both
@pytest.mark.parametrize("llm", WRAPPED.values(), ids=WRAPPED)
async def test_samples_of_a_seeded_model_differ_in_their_seeds(llm, asynchronous):
    result = await run(ForkNode(llm, n=3), DOC, asynchronous=asynchronous)
    assert texts(result["branches"]) == ["5", "6", "7"]


@both
@pytest.mark.parametrize(
    ("llm", "seeds"),
    [
        (Drawing(), ["random"] * 3),
        (Drawing(seed=-1), ["random"] * 3),
        (DRAWING.bind(seed=-1), ["random"] * 3),
        (DRAWING.bind(seed=2**32 - 3), ["4294967293", "4294967294", "0"]),
    ],
)
async def test_seeds_are_counted_up_and_random_ones_stay_random(llm, seeds, asynchronous):
    result = await run(ForkNode(llm, n=3), DOC, asynchronous=asynchronous)
    assert texts(result["branches"]) == seeds


def test_a_calls_seed_is_the_first_samples():
    answers = ForkNode(Drawing(), n=2).invoke(DOC, seed=3)["branches"]
    assert texts(answers) == ["3", "4"]


def test_named_branches_keep_their_seed():
    node = ForkNode(DRAWING, {"a": "x", "b": ForkBranch("x", DRAWING.bind(seed=1))})
    assert texts(node.invoke(DOC)["branches"]) == {"a": "5", "b": "1"}


def test_samples_within_samples_differ_in_their_seeds():
    inner = ForkNode(DRAWING, n=3)
    llm = RunnableLambda(lambda messages: texts(inner.invoke({"messages": messages})["branches"]))
    answers = ForkNode(llm, n=2).invoke(DOC)["branches"]
    assert answers == [["5", "6", "7"], ["8", "9", "10"]]


def test_the_response_cache_keeps_samples_apart():
    llm = Drawing(seed=5, cache=InMemoryModelCache())
    for _ in range(2):
        assert texts(ForkNode(llm, n=2).invoke(DOC)["branches"]) == ["5", "6"]


@both
@pytest.mark.parametrize("greedy", [{"temperature": 0}, {"top_k": 1}, {"top_p": 0}, {"min_p": 1}])
async def test_equal_samples_are_warned_of(greedy, asynchronous):
    llm = DRAWING.bind(**greedy).with_retry()
    (name,) = greedy
    with pytest.warns(EqualAnswersWarning, match=f"All 3 answers .* equal, since {name}=") as told:
        await run(ForkNode(llm, n=3), DOC, asynchronous=asynchronous)
    assert len(told) == 1


def test_branches_with_different_prompts_are_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ForkNode(DRAWING.bind(temperature=0), ["x", "y"]).invoke(DOC)
        ForkNode(DRAWING.bind(temperature=0), n=1).invoke(DOC)


#
# results
#


class Reduced(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    lengths: Annotated[int, operator.add]
    answers: Annotated[list[AnyMessage], operator.add]


def graph_of(node, state=Reduced, **kwargs):
    graph = StateGraph(state)
    graph.add_node("fork", node, **kwargs)
    graph.add_edge(START, "fork")
    return graph


@both
async def test_answers_go_through_the_states_reducers(asynchronous):
    branches = {"a": "x", "b": "yz"}
    length = ECHO | (lambda m: len(m.content))
    nodes = {
        "answers": ForkNode(ECHO, branches, output_key="answers", output="list"),
        "messages": ForkNode(ECHO, branches, output_key="messages", output="reduce"),
        "lengths": ForkNode(length, branches, output_key="lengths", output="reduce"),
    }
    result = {
        key: (await run(graph_of(node).compile(), DOC, asynchronous=asynchronous))[key]
        for key, node in nodes.items()
    }
    assert texts(result["answers"]) == ["doc | x", "doc | yz"]
    assert texts(result["messages"]) == ["doc", "doc | x", "doc | yz"]
    assert result["lengths"] == len("doc | x") + len("doc | yz")


def test_reduced_answers_are_updates_outside_of_a_graph_too():
    node = ForkNode(ECHO, ["x"], output_key="k", output="reduce")
    assert node.invoke(DOC) == [Command(update={"k": AIMessage("doc | x")})]
    graph = graph_of(ForkNode(ECHO, lambda state: [], output_key="answers", output="reduce"))
    assert graph.compile().invoke(DOC)["answers"] == []


def test_the_form_can_be_chosen():
    assert texts(ForkNode(ECHO, {"a": "x"}, output="list").invoke(DOC)["branches"]) == ["doc | x"]
    by_name = ForkNode(ECHO, n=2, output="dict").invoke(DOC)["branches"]
    assert texts(by_name) == {"0": "doc", "1": "doc"}


#
# errors
#


def fail_at(word):
    def answer(messages):
        if messages[-1].content == word:
            raise ValueError(f"no {word}")
        return echo(messages)

    return RunnableLambda(answer)


@both
async def test_errors_can_be_collected(asynchronous):
    node = ForkNode(fail_at("y"), {"a": "x", "b": "y", "c": "z"}, on_error="collect")
    answers = (await run(node, DOC, asynchronous=asynchronous))["branches"]
    assert list(answers) == ["a", "b", "c"]
    assert isinstance(answers["b"], ValueError)
    assert texts({k: answers[k] for k in "ac"}) == {"a": "doc | x", "c": "doc | z"}


@dataclass
class Plain:
    messages: Any
    branches: Any = None


@both
async def test_an_interrupt_in_a_branch_is_no_error(asynchronous):
    def ask(messages):
        return AIMessage(interrupt("which?")) if messages[-1].content == "y" else echo(messages)

    node = ForkNode(RunnableLambda(ask), {"a": "x", "b": "y"}, on_error="collect")
    graph = graph_of(node, Plain).compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    state = {"messages": DOC["messages"]}
    paused = await run(graph, state, config, asynchronous=asynchronous)
    assert [i.value for i in paused["__interrupt__"]] == ["which?"]
    result = await run(graph, Command(resume="this"), config, asynchronous=asynchronous)
    assert texts(result["branches"]) == {"a": "doc | x", "b": "this"}


async def test_a_collected_errors_branch_survives_a_checkpoint_as_text():
    node = ForkNode(fail_at("y"), {"a": "x", "b": "y"}, on_error="collect")
    graph = graph_of(node, Plain).compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    graph.invoke({"messages": DOC["messages"]}, config)
    branches = graph.get_state(config).values["branches"]
    assert branches["b"] == "ValueError('no y')"


#
# races
#


class Waiting:
    """Branches that wait until they are cancelled; some answer once all of those have started."""

    def __init__(self, *waiting):
        self.waiting = waiting
        self.started = []
        self.cancelled = []

    def invoke(self, messages):
        word = messages[-1].content
        if word not in self.waiting:
            while len(self.started) < len(self.waiting):
                time.sleep(0.001)
            return AIMessage(word)
        end = threading.Event()
        current_scope().add(Member(end))
        self.started.append(word)
        assert end.wait(20)
        self.cancelled.append(word)
        raise RuntimeError("cancelled")

    async def ainvoke(self, messages):
        word = messages[-1].content
        if word not in self.waiting:
            while len(self.started) < len(self.waiting):  # noqa: ASYNC110 - as its sync half
                await asyncio.sleep(0.001)
            return AIMessage(word)
        self.started.append(word)
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            self.cancelled.append(word)
            raise

    def runnable(self):
        return RunnableLambda(self.invoke, self.ainvoke)


class Member:
    kept = []  # noqa: RUF012 - scopes hold their members weakly

    def __init__(self, event):
        self.cancel = event.set
        self.kept.append(self)


@both
async def test_the_first_answer_wins_a_race_and_the_others_are_cancelled(asynchronous):
    llm = Waiting("x", "z")
    node = ForkNode(llm.runnable(), {"a": "x", "b": "y", "c": "z"}, race=True)
    result = await run(node, DOC, asynchronous=asynchronous)
    assert texts(result["branches"]) == {"b": "y"}
    assert sorted(llm.cancelled) == ["x", "z"]


@both
async def test_only_an_acceptable_answer_wins(asynchronous):
    llm = Waiting("x")
    node = ForkNode(llm.runnable(), ["x", "y", "z"], race=lambda answer: answer.content == "z")
    result = await run(node, DOC, asynchronous=asynchronous)
    assert texts(result["branches"]) == ["z"]
    assert llm.cancelled == ["x"]


@both
async def test_a_race_that_nobody_wins(asynchronous):
    def never(answer):
        return False

    node = ForkNode(fail_at("y"), ["x", "y"], race=never, on_error="collect")
    (error,) = (await run(node, DOC, asynchronous=asynchronous))["branches"]
    assert isinstance(error, ValueError)
    node = ForkNode(ECHO, {"a": "x"}, race=never)
    assert (await run(node, DOC, asynchronous=asynchronous))["branches"] == {}


@both
async def test_a_judge_that_fails_ends_the_race(asynchronous):
    llm = Waiting("x")
    node = ForkNode(llm.runnable(), ["x", "y"], race=lambda answer: answer.nonsense)
    with pytest.raises(AttributeError):
        await run(node, DOC, asynchronous=asynchronous)
    assert llm.cancelled == ["x"]


@both
async def test_a_branch_that_fails_loses_a_race_if_errors_are_collected(asynchronous):
    branches = {"a": "y", "b": "x"}
    node = ForkNode(fail_at("y"), branches, race=True, on_error="collect")
    result = await run(node, DOC, asynchronous=asynchronous)
    assert texts(result["branches"]) == {"b": "doc | x"}
    # one at a time, the failing one first
    node = ForkNode(fail_at("y"), branches, race=True, max_concurrency=1)
    with pytest.raises(ValueError, match="no y"):
        await run(node, DOC, asynchronous=asynchronous)


def test_a_fan_out_within_a_cancelled_one_is_cancelled_too():
    end = threading.Event()
    with cancel_scope() as outer, cancel_scope() as inner:
        member = Member(end)
        inner.add(member)
        outer.cancel()
        assert end.is_set()


#
# width
#


@both
@pytest.mark.parametrize("most", [1, 3])
async def test_no_more_branches_run_at_a_time_than_asked_for(most, asynchronous):
    running, peak, lock = 0, 0, threading.Lock()

    def enter():
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)

    def leave():
        nonlocal running
        with lock:
            running -= 1

    def answer(messages):
        enter()
        time.sleep(0.01)
        leave()
        return echo(messages)

    async def aanswer(messages):
        enter()
        await asyncio.sleep(0.01)
        leave()
        return echo(messages)

    node = ForkNode(RunnableLambda(answer, aanswer), n=7, max_concurrency=most)
    await run(node, DOC, asynchronous=asynchronous)
    assert peak == most


def test_branches_that_wait_for_their_turn_never_start_once_one_has_won():
    started = []

    def answer(messages):
        started.append(messages[-1].content)
        return echo(messages)

    node = ForkNode(RunnableLambda(answer), list("abcdefgh"), race=True, max_concurrency=1)
    node.invoke(DOC)
    assert len(started) < 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "n=None"),
        ({"branches": ["x"], "n": 2}, "n=2"),
        ({"n": 0}, "n=0"),
        ({"n": True}, "n=True"),
        ({"n": 2, "output": "set"}, "output='set'.*'dict', 'list', 'reduce'"),
        ({"n": 2, "on_error": "ignore"}, "on_error='ignore'"),
        ({"n": 2, "on_error": "collect", "output": "reduce"}, "on_error='collect'"),
        ({"n": 2, "race": "first"}, "race='first'"),
        ({"n": 2, "max_concurrency": 0}, "max_concurrency=0"),
        ({"n": 2, "stream_tokens": "custom"}, "stream_tokens='custom'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(InvalidRequestError, match=message):
        ForkNode(LLM, **arguments)


#
# in LangGraph
#


class Counting:
    def __init__(self, n_failures=0):
        self.calls = 0
        self.n_failures = n_failures

    def __call__(self, messages):
        self.calls += 1
        if self.calls <= self.n_failures:
            raise sqlite3.OperationalError("busy")
        return echo(messages)


@both
async def test_retry_and_cache_policies_hold(asynchronous):
    answer = Counting(n_failures=1)
    node = ForkNode(RunnableLambda(answer), {"a": "x"})
    retry = RetryPolicy(initial_interval=0.01, retry_on=sqlite3.OperationalError)
    graph = graph_of(node, Plain, retry_policy=retry, cache_policy=CachePolicy())
    compiled = graph.compile(cache=InMemoryCache())
    for _ in range(2):
        result = await run(compiled, {"messages": DOC["messages"]}, asynchronous=asynchronous)
        assert texts(result["branches"]) == {"a": "doc | x"}
    assert answer.calls == 2  # a failure, a retry, and then from the cache


@both
async def test_in_a_subgraph(asynchronous):
    inner = graph_of(ForkNode(ECHO, {"a": "x", "b": "y"}), Plain).compile()
    outer = StateGraph(Plain)
    outer.add_node("inner", inner)
    outer.add_edge(START, "inner")
    state = {"messages": DOC["messages"]}
    result = await run(outer.compile(), state, asynchronous=asynchronous)
    assert texts(result["branches"]) == {"a": "doc | x", "b": "doc | y"}


class GraphState(TypedDict, total=False):
    question: str
    answer: str


def small_graph(schema, node):
    graph = StateGraph(schema)
    graph.add_node("n", node)
    graph.add_edge(START, "n")
    return graph.compile()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_a_graph_is_a_branch(asynchronous):
    talks = small_graph(MessagesState, lambda state: {"messages": [echo(state["messages"])]})
    asks = small_graph(GraphState, lambda state: {"answer": state["question"] + "!"})
    last = talks | RunnableLambda(lambda state: state["messages"][-1])
    node = ForkNode(
        ECHO,
        {
            "model": "q",
            "talks": ForkBranch("q", talks.with_config(tags=["x"])),
            "last": ForkBranch([("system", "s"), ("human", "q")], last),
            "asks": ForkBranch(lambda state: {"question": state["topic"]}, asks),
            "both": ForkBranch(lambda state: {"messages": ["q", ("ai", "a")]}, last),
        },
    )
    state = {"messages": [HumanMessage("doc")], "topic": "why"}
    ends = (await node.ainvoke(state) if asynchronous else node.invoke(state))["branches"]
    assert ends["model"].content == "doc\n\nq"
    assert [m.content for m in ends["talks"]["messages"]] == ["doc\n\nq", "doc\n\nq"]
    assert ends["last"].content == "doc\n\ns\n\nq"
    assert ends["asks"] == {"question": "why", "answer": "why!"}
    assert ends["both"].content == "doc\n\nq | a"
    samples = ForkNode(last, n=2).invoke(state)["branches"]
    assert [m.content for m in samples] == ["doc", "doc"]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda graph: graph.with_retry(),
        lambda graph: graph.with_fallbacks([graph]),
        lambda graph: graph.with_listeners(on_end=lambda run: None),
        lambda graph: graph.with_fallbacks([graph]).with_config(tags=["x"]).with_retry(),
    ],
    ids=["retry", "fallbacks", "listeners", "nested"],
)
async def test_a_graph_is_a_branch_whatever_wraps_it(wrap, asynchronous):
    talks = small_graph(MessagesState, lambda state: {"messages": [echo(state["messages"])]})
    node = ForkNode(ECHO, {"talks": ForkBranch("q", wrap(talks))})
    state = {"messages": [HumanMessage("doc")]}
    ends = (await node.ainvoke(state) if asynchronous else node.invoke(state))["branches"]
    assert [m.content for m in ends["talks"]["messages"]] == ["doc\n\nq", "doc\n\nq"]


def test_a_graph_without_messages_is_named():
    asks = small_graph(GraphState, lambda state: {"answer": "a"})
    node = ForkNode(ECHO, {"asks": ForkBranch("q", asks)})
    with pytest.raises(InvalidRequestError, match=r"branches\['asks'\].*no key 'messages'"):
        node.invoke({"messages": "doc"})
    node = ForkNode(ECHO, {"model": lambda state: {"question": "q"}})
    with pytest.raises(InvalidRequestError, match=r"branches\['model'\] returned"):
        node.invoke({"messages": "doc"})


def test_a_response_cache_keeps_namespaces_apart():
    """LangChain finds an answer by this: one out of another namespace would be told of it."""

    def key():
        return LLM._get_llm_string()

    alone = key()
    with calling_with({"namespace": "a"}):
        a = key()
    with calling_with({"namespace": "b"}):
        b = key()
    assert len({alone, a, b}) == 3
