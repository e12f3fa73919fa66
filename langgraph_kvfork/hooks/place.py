"""Where in a graph a call runs, and how it reaches the graph from there.

LangGraph keeps a node's runtime in a context variable. Everything here reads it, or one of ours
beside it, and does nothing outside of a graph:

- `node_path` names the node, for reports and warnings;
- `stream_writer` writes to the graph's `custom` stream;
- `heartbeat` resets the node's idle time limit while its model computes;
- `token_listener` passes on the text of an answer while it is generated.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TypeAlias

from langgraph_kvfork.branches.events import PrefillProgress
from langgraph_kvfork.checks import require

Listener: TypeAlias = Callable[[str], None]

FAN_OUT, BRANCH = _OURS = ("kvfork_fan_out", "kvfork_branch")
"""What a fan-out and a branch of it are called in LangGraph's namespaces."""

_listener: ContextVar[Listener | None] = ContextVar("kvfork_token_listener", default=None)


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
    """Return the function that writes to the graph's `custom` stream; None outside of a graph."""
    return getattr(graph_runtime(), "stream_writer", None)


def node_path(metadata: Mapping[str, Any]) -> str:
    """Return a call's node, after those of the graphs around it: "outer/inner"; "" outside.

    Args:
        metadata: The call's, where LangGraph's namespace is `outer:<uuid>|inner:<uuid>`.
    """
    namespace = str(metadata.get("langgraph_checkpoint_ns", ""))
    names = (part.split(":")[0] for part in namespace.split("|"))
    path = "/".join(name for name in names if name not in _OURS)
    return path or str(metadata.get("langgraph_node", ""))


def branch_path(metadata: Mapping[str, Any], name: str) -> str:
    """Return a branch's name, after those of the branches around its fan-out: "outer/inner".

    Args:
        metadata: The fan-out's.
        name: The branch.
    """
    outer = metadata.get("kvfork_branch")
    return f"{outer}/{name}" if outer else name


def heartbeat() -> Callable[[], None]:
    """Return a function that resets the idle time limit of the node that this call runs in.

    Outside of a graph, and with releases of LangGraph that have no such limits, it does nothing.
    """
    beat: Callable[[], None] = getattr(graph_runtime(), "heartbeat", _do_nothing)
    return beat


def progress_with_heartbeat(
    on_progress: Callable[[PrefillProgress], None] | None,
) -> Callable[[PrefillProgress], None]:
    """Return a callback for progress that is a `heartbeat` too.

    Raises:
        InvalidRequestError: `on_progress` is not a function.
    """
    callback = on_progress is None or callable(on_progress)
    require(callback, "on_progress", on_progress, "pass a function that takes a PrefillProgress")
    beat = heartbeat()

    def report(progress: PrefillProgress) -> None:
        beat()
        if on_progress is not None:
            on_progress(progress)

    return report


def stream_item(metadata: Mapping[str, Any], **content: Any) -> dict[str, Any]:
    """Return an item for a graph's `custom` stream: its node, its branch and its content.

    Args:
        metadata: The call's.
        **content: `token` or `prefill`.
    """
    return {
        "node": node_path(metadata),
        "branch_name": metadata.get("kvfork_branch", ""),
        **content,
    }


def token_writer(*, begin: bool) -> Callable[[Any], None] | None:
    """Return the function that writes branches' texts to the graph's `custom` stream.

    Args:
        begin: Write them in any case. False: only if the text of a branch around them is.

    Returns:
        None outside of a graph, and if nobody asked for the texts.
    """
    return stream_writer() if begin or _listener.get() is not None else None


def token_listener_of(
    metadata: Mapping[str, Any], write: Callable[[Any], None] | None
) -> Listener | None:
    """Return a function that writes a branch's text to a stream.

    Args:
        metadata: The branch's.
        write: Writes an item to the stream; None: there is nothing to write.
    """
    if write is None:
        return None

    def write_token(text: str) -> None:
        if text:
            write(stream_item(metadata, token=text))

    return write_token


def token_listener() -> Listener:
    """Return the function that takes the text of this context's answers, piece by piece."""
    return _listener.get() or _ignore


@contextlib.contextmanager
def listening_to_tokens(listener: Listener | None) -> Iterator[None]:
    """Pass the text of this context's answers, and of contexts copied from it, to `listener`.

    A LangChain callback cannot do this: a model that is invoked does not stream for a callback of a
    public class, and streaming it would change what it returns.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def _do_nothing() -> None:
    pass


def _ignore(text: str) -> None:
    pass
