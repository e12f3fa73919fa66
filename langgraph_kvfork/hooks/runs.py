"""Which run a call of the model is a part of, and when that run is over.

A run is one call of a graph, an agent or a chain that is no part of another. `RunHandler` is a
LangChain callback handler, which `register_configure_hook` adds to every configuration in the
process. Each start names its parent, so `Runs` traces each part to its root. A call of the chat
model then passes the run's number to the engine, which keeps the run's prefixes until the root
ends, fails or is cancelled: `Run.end` reports that to all engines that the run has used.

An interrupted run ends in LangChain's eyes, and is resumed later. Its prefixes stay until the time
limit. `interrupt_before` and `interrupt_after` raise nothing, so they count as an end. A call
outside of any run has the number 0 and keeps nothing.

There are no locks: each step is one operation of a dict or a set.
"""

from __future__ import annotations

import secrets
import sys
import time
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.runnables import RunnableConfig
from langchain_core.tracers.context import register_configure_hook

from langgraph_kvfork.branches.given_up import note_caller

if TYPE_CHECKING:
    from langgraph_kvfork.engine.engine import Engine

TIME_LIMIT = 600.0
"""Seconds without an event after which a run is forgotten; the engine forgets it by itself, too."""


class Run:
    """A run that is no part of another: one call of a graph, of an agent, of a chain."""

    def __init__(self) -> None:
        self.last_active = time.monotonic()
        self.parts: set[UUID] = set()
        self.is_interrupted = False
        self.kept: dict[str, Any] = {}
        self._id = secrets.randbits(63) + 1
        self._engines: weakref.WeakSet[Engine] = weakref.WeakSet()
        self._is_over = False

    def id_in(self, engine: Engine) -> int:
        """Return its number in an engine, for a call that it makes; 0 if it is over."""
        if self._is_over:
            return 0
        self._engines.add(engine)
        return self._id

    def end(self) -> None:
        """End it in all engines."""
        self._is_over = True
        for engine in list(self._engines):
            engine.end_run(self._id)


class Runs:
    """The runs that go on, by the ids of all their parts.

    Each step is one operation of a dict or a set, so it needs no lock, which a process that is
    forked off could find taken. What a late part leaves behind goes with the abandoned runs.
    """

    def __init__(self) -> None:
        self._runs: dict[UUID, Run] = {}

    def get(self, part: UUID | None) -> Run | None:
        """Return the run that something is a part of; None if it is not known."""
        return None if part is None else self._runs.get(part)

    def begin(self, part: UUID, parent: UUID | None) -> None:
        """Take note of a part, or of a run, if it is no part of anything."""
        if parent is None:
            self._forget_abandoned()
            run = Run()
        elif (known := self._runs.get(parent)) is not None:
            run = known
        else:
            return
        run.last_active = time.monotonic()
        run.parts.add(part)
        self._runs[part] = run

    def end(self, part: UUID, parent: UUID | None) -> None:
        """Forget a part; if it is a run, forget it all and end it, unless it goes on."""
        run = self._runs.pop(part, None)
        if run is None:
            return
        run.last_active = time.monotonic()
        run.parts.discard(part)
        if parent is None:
            self._forget(run)
            if not run.is_interrupted:
                run.end()

    def _forget_abandoned(self) -> None:
        latest = time.monotonic() - TIME_LIMIT
        for run in {run for run in list(self._runs.values()) if run.last_active < latest}:
            self._forget(run)

    def _forget(self, run: Run) -> None:
        for part in list(run.parts):
            self._runs.pop(part, None)


class RunHandler(BaseCallbackHandler):
    """Follows every run in the process; it has no state, so that a configuration can be copied."""

    run_inline = True
    ignore_llm = True
    ignore_retriever = True
    ignore_retry = True
    ignore_custom_event = True

    def on_chain_start(
        self, *args: Any, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        """Take note of a graph, a node or a chain."""
        note_caller()
        _runs.begin(run_id, parent_run_id)

    def on_tool_start(
        self, *args: Any, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        """Take note of a tool: it may call models."""
        note_caller()
        _runs.begin(run_id, parent_run_id)

    def on_chat_model_start(
        self, *args: Any, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        """Leave the call its run: LangChain passes the parent to some calls, but not to all."""
        _of_call.set(_runs.get(parent_run_id))

    def on_chain_end(
        self, *args: Any, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        """Forget it."""
        _runs.end(run_id, parent_run_id)

    def on_tool_end(
        self, *args: Any, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        """Forget it."""
        _runs.end(run_id, parent_run_id)

    def on_chain_error(
        self,
        error: BaseException,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """Forget it; an interrupted node's run is going to be resumed, though it ends well."""
        run = _runs.get(run_id)
        if run is not None and _is_interrupt(error):
            run.is_interrupted = True
        _runs.end(run_id, parent_run_id)

    def on_tool_error(
        self,
        error: BaseException,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """Forget it."""
        _runs.end(run_id, parent_run_id)


def run_id_of_call(engine: Engine) -> int:
    """Return the engine's number of the run of this context's call of a chat model; 0: no run."""
    run = _of_call.get()
    return 0 if run is None else run.id_in(engine)


def run_id_of_config(engine: Engine, config: RunnableConfig) -> int:
    """Return the engine's number of the run that a configuration belongs to; 0: none."""
    callbacks = config.get("callbacks")
    if not isinstance(callbacks, BaseCallbackManager):
        return 0
    run = _runs.get(callbacks.parent_run_id)
    return 0 if run is None else run.id_in(engine)


def kept_by_run(part: UUID) -> dict[str, Any] | None:
    """Return the values that nodes of a run keep until it is over, by task; None: an unknown run.

    Args:
        part: The run, or a part of it.
    """
    run = _runs.get(part)
    return None if run is None else run.kept


def _is_interrupt(error: BaseException) -> bool:
    # where nobody has imported LangGraph, nothing is interrupted
    langgraph = sys.modules.get("langgraph.errors")
    return langgraph is not None and isinstance(error, langgraph.GraphInterrupt)


_runs = Runs()
_of_call: ContextVar[Run | None] = ContextVar("kvfork_run", default=None)
_handler: ContextVar[RunHandler | None] = ContextVar("kvfork_runs", default=RunHandler())  # noqa: B039 - it has no state
register_configure_hook(_handler, inheritable=True)
