"""A panel that reads one document, for the LangGraph server."""

import os
from dataclasses import dataclass
from typing import Any

from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import get_runtime

from langgraph_kvfork import ChatKVFork, ForkNode, PrefillNode


@dataclass
class Context:
    """What an assistant can be set to."""

    audience: str = "a lawyer"


class State(MessagesState):
    """The document, and what the panel says of it."""

    branches: dict[str, Any]


def questions(state: State) -> dict[str, str]:
    """Return the branches, which end differently for each assistant."""
    audience = get_runtime(Context).context.audience
    return {
        "risks": f"List the risks, for {audience}.",
        "duties": f"List the duties, for {audience}.",
        "dates": f"List the dates, for {audience}.",
    }


# all assistants, threads and runs of the server share this model's cells
model_path = os.environ.get("MODEL_PATH")  # None: the small one
llm = ChatKVFork(model_path=model_path, temperature=0, max_tokens=32)

builder = StateGraph(State, context_schema=Context)
builder.add_node("read", PrefillNode(llm))
builder.add_node("panel", ForkNode(llm, questions))
builder.add_edge(START, "read")
builder.add_edge("read", "panel")
graph = builder.compile()
