"""The task of LangGraph's that a node runs as: its namespace, its attempts, the keys it can write.

What is read here has no public interface: where a release of LangGraph has it otherwise, nothing is
known, and callers do without.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any
from uuid import UUID

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import RunnableBindingBase

from langgraph_kvfork.hooks.place import FAN_OUT
from langgraph_kvfork.hooks.runs import kept_by_run

_SCRATCHPAD = "__pregel_scratchpad"
_RUNTIME = "__pregel_runtime"
_NAMESPACE = "checkpoint_ns"


@dataclass(slots=True)
class Attempts:
    """What a node remembers of its attempts, while its run goes on.

    Attributes:
        attempt: The latest one, from 1 on.
        n_fan_outs: How many fan-outs it has begun.
        finished: The updates of branches that finished, by fan-out and name.
    """

    attempt: int = 1
    n_fan_outs: int = 0
    finished: dict[UUID, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FanOutPlace:
    """Where a fan-out runs.

    Attributes:
        configurable: For the graph that runs it. Its checkpoint namespace is this fan-out's own,
            and the same one when the node is resumed or tried again.
        finished: The updates of branches that finished in earlier attempts, to be added to.
    """

    configurable: dict[str, Any]
    finished: dict[str, Any]


def fan_out_place(config: RunnableConfig, run_id: UUID, names: Sequence[str]) -> FanOutPlace:
    """Return where a fan-out runs, and the results of its earlier attempts.

    LangGraph numbers the graphs that a task calls, but goes on counting when the task is tried
    again, so that the next attempt would find nothing of the one before, and a resumed one
    something else. So fan-outs are counted here, from 0 on in each attempt.

    Args:
        config: The node's.
        run_id: The node's run.
        names: The branches'.
    """
    configurable = dict(config.get("configurable") or {})
    attempts = _attempts(configurable, run_id)
    scratchpad: Any = configurable.get(_SCRATCHPAD)
    if attempts is None or not _counts_subgraphs(scratchpad):
        return FanOutPlace(configurable, {})
    called = "\0".join((str(attempts.n_fan_outs), *names))
    attempts.n_fan_outs += 1
    fan_out = uuid.uuid5(uuid.NAMESPACE_OID, called)
    configurable[_NAMESPACE] = f"{configurable.get(_NAMESPACE, '')}|{FAN_OUT}:{fan_out}"
    configurable[_SCRATCHPAD] = replace(scratchpad, subgraph_counter=itertools.count().__next__)
    return FanOutPlace(configurable, attempts.finished.setdefault(fan_out, {}))


def in_branch(configurable: Mapping[str, Any], node: RunnableConfig) -> dict[str, Any]:
    """Return a branch's `configurable`, with the node's `custom` stream.

    LangGraph gives a graph within a node another one, which is not read unless somebody asks for
    the streams of subgraphs.
    """
    own, outer = configurable.get(_RUNTIME), node.get("configurable", {}).get(_RUNTIME)
    if own is None or outer is None:
        return dict(configurable)
    return {**configurable, _RUNTIME: own.override(stream_writer=outer.stream_writer)}


def _attempts(configurable: Mapping[str, Any], run_id: UUID) -> Attempts | None:
    info = getattr(configurable.get(_RUNTIME), "execution_info", None)
    kept = kept_by_run(run_id)
    if info is None or kept is None:
        return None
    attempts: Attempts = kept.setdefault(info.task_id, Attempts())
    if attempts.attempt != info.node_attempt:
        attempts.attempt, attempts.n_fan_outs = info.node_attempt, 0
    return attempts


def _counts_subgraphs(scratchpad: Any) -> bool:
    return is_dataclass(scratchpad) and hasattr(scratchpad, "subgraph_counter")


def unknown_key(config: RunnableConfig, node: Runnable[Any, Any], key: str) -> list[str] | None:
    """Return the keys of the graph's state if it would drop what a node writes to `key`.

    Args:
        config: The node's.
        node: Who asks. If it is not the graph's node itself, but called by a function, the function
            has its answers, and nothing is dropped.
        key: Where it writes.

    Returns:
        None if the state has the key, or if that is not known.
    """
    configurable = config.get("configurable") or {}
    called = getattr(configurable.get("__pregel_call"), "args", ())
    task = called[0]() if called and callable(called[0]) else None
    if not _is_written(getattr(getattr(task, "proc", None), "steps", ()), node):
        return None
    read = getattr(configurable.get("__pregel_read"), "args", ())
    channels = next((each for each in read if isinstance(each, Mapping)), None)
    if channels is None or key in channels or "__root__" in channels:
        return None
    return [name for name in channels if not name.startswith(("__", "branch:", "join:"))]


def _is_written(steps: Sequence[Any], node: Runnable[Any, Any]) -> bool:
    """Return whether a node's result goes to LangGraph's writers as it is."""
    for step, after in itertools.pairwise(steps):
        while step is not node and isinstance(step, RunnableBindingBase):
            step = step.bound
        if step is node:
            return type(after).__name__ == "ChannelWrite"
    return False
