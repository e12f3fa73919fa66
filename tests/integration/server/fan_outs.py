"""The fan-out that all servers are asked for: eight questions about one document."""

import asyncio
import operator
from typing import Annotated, Any, TypedDict

import pytest
from helpers import await_until
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.runnables import RunnableLambda
from langgraph.graph import START, StateGraph

from langgraph_kvfork import ChatKVForkServer, ForkNode, PrefillNode

QUESTIONS = [f"What does paragraph {i} say?" for i in range(8)]


class State(TypedDict):
    messages: list[Any]
    branches: list[Any]
    answers: Annotated[list[Any], operator.add]


def chat(server, **kwargs):
    return ChatKVForkServer(base_url=server.url, temperature=0, max_tokens=4, **kwargs)


def nodes(llm, *, ahead):
    graph = StateGraph(State)
    graph.add_node("panel", ForkNode(llm, QUESTIONS))
    if ahead:
        graph.add_node("read", PrefillNode(llm))
        graph.add_edge(START, "read")
        graph.add_edge("read", "panel")
    else:
        graph.add_edge(START, "panel")
    return graph.compile()


def plain(llm):
    """The same fan-out as nobody of ours would write it: a node for each question."""
    graph = StateGraph(State)
    for i, question in enumerate(QUESTIONS):

        async def aask(state, question=question):
            messages = [*state["messages"], HumanMessage(question)]
            return {"answers": [await llm.ainvoke(messages)]}

        def ask(state, question=question):
            return {"answers": [llm.invoke([*state["messages"], HumanMessage(question)])]}

        graph.add_node(f"ask {i}", RunnableLambda(ask, aask))
        graph.add_edge(START, f"ask {i}")
    return graph.compile()


def some_document(number, document):
    """A document that no other test has, so that nothing of it is in a cache."""
    return [SystemMessage(f"Letter {number}.\n{document[0].content[:1400]}")]


def counts(llm, messages):
    """Return the tokens that all branches begin with, and each one's."""
    prompts = [
        llm.get_num_tokens_from_messages([*messages, HumanMessage(question)])
        for question in QUESTIONS
    ]
    bare = llm.get_num_tokens_from_messages([*messages, HumanMessage("W")])
    return bare, prompts


WAYS_TO_CANCEL = ["task", "stream", "stream left"]


async def cancel(llm, how, server):
    """Cancel a long answer in one of `WAYS_TO_CANCEL`; wait until nothing runs on the server."""
    if how == "task":
        task = asyncio.create_task(llm.ainvoke("Count to a million."))
        await await_until(lambda: server.running == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    elif how == "stream":
        async for _ in llm.astream("Count to a million."):
            break
    else:
        for _ in llm.stream("Count to a million."):
            break
    await await_until(lambda: server.running == 0)
