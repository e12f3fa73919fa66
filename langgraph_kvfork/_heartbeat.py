"""Telling LangGraph that a node is alive while its model computes, when nothing else does."""

from __future__ import annotations

from collections.abc import Callable

from langgraph_kvfork._checks import require
from langgraph_kvfork._graph_place import graph_runtime
from langgraph_kvfork.events import PrefillProgress


def heartbeat() -> Callable[[], None]:
    """Return what resets the idle time limit of the node that this call runs in.

    Outside of a graph, and with releases of LangGraph that have no such limits, it does nothing.
    """
    beat: Callable[[], None] = getattr(graph_runtime(), "heartbeat", _nothing)
    return beat


def beating(
    on_progress: Callable[[PrefillProgress], None] | None,
) -> Callable[[PrefillProgress], None]:
    """Return a callback for progress that is a `heartbeat` too."""
    callback = on_progress is None or callable(on_progress)
    require(callback, "on_progress", on_progress, "give a function that takes a PrefillProgress")
    beat = heartbeat()

    def told(progress: PrefillProgress) -> None:
        beat()
        if on_progress is not None:
            on_progress(progress)

    return told


def _nothing() -> None:
    pass
