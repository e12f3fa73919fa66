"""Where in a graph a call runs: which node of which run, and where its stream is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any


def graph_runtime() -> Any | None:
    """Return LangGraph's `Runtime` of the node that this call runs in; None outside of a graph."""
    # where nobody has imported LangGraph, no graph runs
    langgraph = sys.modules.get("langgraph.runtime")
    if langgraph is None:
        return None
    try:
        return langgraph.get_runtime()
    except (RuntimeError, KeyError):
        # LangGraph's two ways to say that this is not a node of a graph
        return None


def stream_writer() -> Callable[[Any], None] | None:
    """Return what writes to the `custom` stream of the graph; None outside of one."""
    return getattr(graph_runtime(), "stream_writer", None)


def node_path(metadata: Mapping[str, Any]) -> str:
    """Return a call's node, after those of the graphs around it: "outer/inner"; "" outside.

    Args:
        metadata: The call's, where LangGraph's namespace is `outer:<uuid>|inner:<uuid>`.
    """
    namespace = str(metadata.get("langgraph_checkpoint_ns", ""))
    path = "/".join(part.split(":")[0] for part in namespace.split("|"))
    return path or str(metadata.get("langgraph_node", ""))
