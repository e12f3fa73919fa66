"""One turn of a conversation, whose checkpoints are in a file: asks, or answers what was asked.

Called by test_fork_sqlite.py with the file, and "sync" or "async". It answers one question, the
first by its name, and prints what there was to ask or to say, and which branches were called.
"""

import asyncio
import json
import sys
from typing import Any, TypedDict

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from langgraph_kvfork import ForkNode


class State(TypedDict, total=False):
    messages: list[Any]
    branches: Any


CONFIG = {"configurable": {"thread_id": "1"}}
calls = []


def ask(messages):
    name = messages[-1].content
    calls.append(name)
    return AIMessage(f"{name}: {'-' if name == 'c' else interrupt(name)}")


async def aask(messages):
    return ask(messages)


def graph_with(saver):
    graph = StateGraph(State)
    node = ForkNode(RunnableLambda(ask, aask), {name: name for name in "abc"})
    graph.add_node("fork", node)
    graph.add_edge(START, "fork")
    return graph.compile(checkpointer=saver)


def next_input(state):
    if not state.next:
        return {"messages": [("system", "doc")]}
    first = min(state.interrupts, key=lambda each: each.value)
    return Command(resume={first.id: f"<{first.value}>"})


def tell(result):
    if "__interrupt__" in result:
        told = {"asked": sorted(each.value for each in result["__interrupt__"])}
    else:
        told = {"answers": {name: m.content for name, m in result["branches"].items()}}
    print(json.dumps({**told, "calls": sorted(calls)}))


def run(path):
    with SqliteSaver.from_conn_string(path) as saver:
        graph = graph_with(saver)
        tell(graph.invoke(next_input(graph.get_state(CONFIG)), CONFIG))


async def arun(path):
    async with AsyncSqliteSaver.from_conn_string(path) as saver:
        graph = graph_with(saver)
        tell(await graph.ainvoke(next_input(await graph.aget_state(CONFIG)), CONFIG))


if __name__ == "__main__":
    if sys.argv[2] == "async":
        asyncio.run(arun(sys.argv[1]))
    else:
        run(sys.argv[1])
