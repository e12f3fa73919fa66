"""An output key that the graph's state lacks is found out before anything is computed."""

from dataclasses import dataclass
from typing import Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import BaseModel

from langgraph_kvfork import ForkNode, InvalidRequestError, TreeSearchNode

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
INPUT = {"messages": [HumanMessage("doc")]}
CALLS = []


def answer(messages):
    CALLS.append(messages)
    return AIMessage("yes")


LLM = RunnableLambda(answer)


@dataclass
class Plain:
    messages: list[Any]


class Model(BaseModel):
    messages: list[Any]


class Other(TypedDict, total=False):
    messages: list[Any]
    answers: Any


async def run(node, schema, *, asynchronous, checkpointer=None):
    graph = StateGraph(schema)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    compiled = graph.compile(checkpointer=checkpointer)
    config = {"configurable": {"thread_id": "1"}}
    return await compiled.ainvoke(INPUT, config) if asynchronous else compiled.invoke(INPUT, config)


@both
@pytest.mark.parametrize("schema", [MessagesState, Plain, Model, Other])
@pytest.mark.parametrize(
    "node",
    [
        ForkNode(LLM, ["a"]),
        ForkNode(LLM, n=2, output="dict"),
        ForkNode(LLM, ["a"], output="reduce"),
        ForkNode(LLM, ["a"]).with_config(tags=["x"]),
        RunnableLambda(lambda state: state) | ForkNode(LLM, ["a"]),
        TreeSearchNode(LLM, lambda path: 1),
    ],
)
async def test_a_key_that_the_state_lacks_is_refused(node, schema, asynchronous):
    CALLS.clear()
    saver = InMemorySaver() if asynchronous else None
    with pytest.raises(InvalidRequestError, match=r"output_key='(branches|paths)'.*: messages"):
        await run(node, schema, asynchronous=asynchronous, checkpointer=saver)
    assert not CALLS


@both
async def test_a_key_that_the_state_has_is_taken(asynchronous):
    node = ForkNode(LLM, ["a"], output_key="answers")
    assert (await run(node, Other, asynchronous=asynchronous))["answers"] == [AIMessage("yes")]
    node = ForkNode(LLM, ["a"], output_key="messages", output="reduce")
    result = await run(node, MessagesState, asynchronous=asynchronous)
    assert [m.content for m in result["messages"]] == ["doc", "yes"]


@both
async def test_a_function_that_calls_the_node_has_its_answers(asynchronous):
    fork = ForkNode(LLM, ["a"])

    async def anode(state, config):
        return {"answers": (await fork.ainvoke(state, config))["branches"]}

    def node(state):
        return {"answers": fork.invoke(state)["branches"]}

    result = await run(anode if asynchronous else node, Other, asynchronous=asynchronous)
    assert result["answers"] == [AIMessage("yes")]
    chain = fork | (lambda update: {"answers": update["branches"]})
    assert (await run(chain, Other, asynchronous=asynchronous))["answers"] == [AIMessage("yes")]
