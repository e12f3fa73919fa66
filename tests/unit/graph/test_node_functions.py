"""What a node is given to call: sync and async functions, of more than one argument, runnables."""

from typing import Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime

from langgraph_kvfork import ForkBranch, ForkNode, InvalidRequestError, TreeSearchNode

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
ECHO = RunnableLambda(lambda messages: AIMessage(messages[-1].content))
INPUT = {"messages": [SystemMessage("doc")]}


class State(TypedDict, total=False):
    messages: list[Any]
    branches: Any
    paths: Any


class Context(TypedDict, total=False):
    word: str


async def run(node, *, asynchronous, **kwargs):
    graph = StateGraph(State, context_schema=Context)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    compiled = graph.compile()
    options = {"config": {"configurable": {"word": "b"}}, "context": {"word": "b"}}
    if asynchronous:
        return await compiled.ainvoke(INPUT, **options)
    return compiled.invoke(INPUT, **options)


class IsB:
    async def __call__(self, answer):
        return answer.content == "b"


def of_config(answer, config):
    return answer.content == config["configurable"]["word"]


def of_runtime(answer, runtime):
    return answer.content == runtime.context["word"]


def of_annotated(answer, where: Runtime[Context], conf: RunnableConfig):
    return answer.content == where.context["word"] == conf["configurable"]["word"]


async def ais_b(answer):
    return answer.content == "b"


async def aof_config(answer, *, config):
    return of_config(answer, config)


SYNC = [of_config, of_runtime, of_annotated, RunnableLambda(lambda a: a.content == "b")]
ASYNC = [ais_b, aof_config, IsB(), lambda a: ais_b(a), RunnableLambda(ais_b)]


@both
@pytest.mark.parametrize("judge", SYNC)
async def test_a_race_is_judged_by_what_its_function_returns(judge, asynchronous):
    node = ForkNode(ECHO, ["a", "b", "c"], race=judge)
    (winner,) = (await run(node, asynchronous=asynchronous))["branches"]
    assert winner.content == "b"


@pytest.mark.parametrize("judge", ASYNC)
async def test_an_async_judge_is_waited_for(judge):
    (winner,) = (await run(ForkNode(ECHO, ["a", "b", "c"], race=judge), asynchronous=True))[
        "branches"
    ]
    assert winner.content == "b"


@pytest.mark.parametrize("judge", ASYNC)
async def test_a_sync_call_refuses_what_it_cannot_wait_for(judge):
    with pytest.raises(InvalidRequestError, match=r"^race=.* is async, .*ainvoke\(\)"):
        await run(ForkNode(ECHO, ["a", "b"], race=judge), asynchronous=False)


@pytest.mark.parametrize("judge", [ais_b, RunnableLambda(ais_b), IsB()])
async def test_it_is_refused_before_anything_is_computed(judge):
    calls = []
    llm = RunnableLambda(calls.append)
    for node in (
        ForkNode(llm, ["a"], race=judge),
        ForkNode(llm, {"a": judge}),
        ForkNode(llm, {"a": ForkBranch(judge)}),
        ForkNode(llm, judge),
        TreeSearchNode(llm, judge),
        TreeSearchNode(llm, len, is_solution=judge),
        TreeSearchNode(llm, len, follow_up=judge),
    ):
        with pytest.raises(InvalidRequestError, match="is async"):
            await run(node, asynchronous=False)
    assert not calls


@both
@pytest.mark.parametrize("verdict", [AIMessage("No."), {"good": False}, lambda: False])
async def test_a_verdict_that_is_always_true_is_refused(verdict, asynchronous):
    node = ForkNode(
        ECHO,
        ["a"],
        race=RunnableLambda(lambda answer: {"verdict": verdict})
        | (lambda said: said["verdict"] if not callable(verdict) else [verdict][0]),
    )
    if callable(verdict):
        node = ForkNode(ECHO, ["a"], race=lambda answer: verdict)
    with pytest.raises(InvalidRequestError, match=r"^race\(answer\) returned .* True or False"):
        await run(node, asynchronous=asynchronous)
    node = TreeSearchNode(ECHO, lambda path: 1, is_solution=lambda path: verdict)
    with pytest.raises(InvalidRequestError, match=r"^is_solution\(path\) returned"):
        await run(node, asynchronous=asynchronous)


async def afirst(state):
    return state["messages"][0].content + "!"


@pytest.mark.parametrize(
    "branches",
    [
        {"x": afirst},
        {"x": ForkBranch(afirst)},
        [RunnableLambda(afirst)],
        {"x": lambda state, config: state["messages"][0].content + "!"},
        {"x": lambda state, runtime: f"doc{'!' if runtime.context['word'] else ''}"},
        RunnableLambda(lambda state: {"x": "doc!"}),
        {"x": ChatPromptTemplate.from_messages([("human", "doc!")])},
    ],
)
async def test_branches_are_functions_of_every_kind(branches):
    result = (await run(ForkNode(ECHO, branches, output="list"), asynchronous=True))["branches"]
    assert [answer.content for answer in result] == ["doc!"]


async def test_a_tree_takes_functions_of_every_kind():
    async def score(path, config):
        return len(config["configurable"]["word"])

    async def is_solution(path, runtime):
        return len(path) > 2 and runtime.context["word"] == "b"

    async def follow_up(path):
        return "more"

    node = TreeSearchNode(ECHO, score, follow_up=follow_up, is_solution=is_solution, depth=9)
    (path,) = (await run(node, asynchronous=True))["paths"]
    assert [m.content for m in path["messages"]] == ["doc", "more", "more"]


@pytest.mark.parametrize(
    "function", [lambda: True, lambda a, b: True, lambda *, answer: True, lambda a, b, c=1: True]
)
def test_a_function_of_something_else_is_refused_when_the_node_is_made(function):
    for make in (
        lambda: ForkNode(ECHO, ["a"], race=function),
        lambda: ForkNode(ECHO, {"a": function}),
        lambda: ForkBranch(function),
        lambda: ForkNode(ECHO, function),
        lambda: TreeSearchNode(ECHO, function),
        lambda: TreeSearchNode(ECHO, len, is_solution=function),
        lambda: TreeSearchNode(ECHO, len, follow_up=function),
    ):
        with pytest.raises(InvalidRequestError, match="config, runtime, store, writer"):
            make()


def test_a_generator_is_refused_when_the_node_is_made():
    def judge(answer):
        yield True

    async def ajudge(answer):
        yield True

    for function in (judge, ajudge):
        with pytest.raises(InvalidRequestError, match="returns, not one that yields"):
            ForkNode(ECHO, ["a"], race=function)


def test_a_model_is_no_branch():
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel

    model = GenericFakeChatModel(messages=iter([]))
    for llm in (model, model.with_retry(), model | (lambda answer: answer.text)):
        with pytest.raises(InvalidRequestError, match=r"ForkBranch\(messages, llm\)"):
            ForkNode(ECHO, {"a": llm})
