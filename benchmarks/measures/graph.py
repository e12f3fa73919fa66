"""The graph that is measured: a plain LangGraph fan-out, the same for every chat model."""

from __future__ import annotations

import asyncio
import operator
import time
from typing import Annotated, Any, TypedDict

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langgraph.graph import START, StateGraph

from benchmarks.prompts import messages

# one for all fan-outs: clients keep their connections for the next one
_loop = asyncio.new_event_loop()


class State(TypedDict):
    """The graph's state."""

    document: str
    answers: Annotated[list[AIMessage], operator.add]


def fan_out(llm: BaseChatModel, questions: list[str]) -> Any:
    """Return the graph: every question is a node, and all run in one superstep."""
    graph = StateGraph(State)
    for i, question in enumerate(questions):

        async def ask(state: State, question: str = question) -> dict[str, Any]:
            return {"answers": [await llm.ainvoke(messages(state["document"], question))]}

        graph.add_node(f"ask {i}", ask)
        graph.add_edge(START, f"ask {i}")
    return graph.compile()


def timed(llm: BaseChatModel, document: str, questions: list[str]) -> tuple[float, list[AIMessage]]:
    """Run the graph; return its seconds and its answers."""
    graph = fan_out(llm, questions)
    start = time.perf_counter()
    state = _loop.run_until_complete(graph.ainvoke({"document": document, "answers": []}))
    return time.perf_counter() - start, state["answers"]


def count_tokens(answers: list[AIMessage]) -> tuple[int, int]:
    """Return how many prompt tokens were computed for some answers, and how many generated."""
    prefilled = generated = 0
    for answer in answers:
        usage = answer.usage_metadata
        if usage is None:
            raise ValueError("an answer without usage_metadata")
        cached = usage.get("input_token_details", {}).get("cache_read", 0)
        prefilled += usage["input_tokens"] - cached
        generated += usage["output_tokens"]
    return prefilled, generated
