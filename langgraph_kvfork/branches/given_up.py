"""Finding out, in a thread, that whoever waited for its work has given up.

Python cannot interrupt a thread. A pool whose block is left with an error, Ctrl-C above all, waits
for its threads to come to their end; and a task that is cancelled leaves the thread that it had
handed work to alone. Neither is reported to the threads, so their branches would be computed to
their ends. But a thread can see both: a pool that waits is in its `__exit__`, with the error as an
argument, and a cancelled task says so.

Who has handed work to a thread is in a context variable, which pools of LangChain and LangGraph,
and `asyncio.to_thread`, copy.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import weakref
from concurrent.futures import Executor
from contextvars import ContextVar
from types import FrameType
from typing import Any

INTERVAL = 0.25
"""Seconds from one look at other threads to the next."""

_Caller = tuple["weakref.ref[threading.Thread]", "weakref.ref[asyncio.Task[Any]] | None"]

_callers: ContextVar[tuple[_Caller, ...]] = ContextVar("kvfork_callers", default=())

# when it was looked, and the threads that were found: one look serves all threads; as objects,
# since a thread that has ended leaves its number to the next one
_latest: tuple[float, frozenset[threading.Thread]] = (0.0, frozenset())


def note_caller() -> None:
    """Remember, in this context and those copied from it, who hands work to other threads here."""
    thread, task = threading.current_thread(), _current_task()
    callers = _callers.get()
    if callers:
        last_thread, last_task = callers[-1]
        if last_thread() is thread and (last_task and last_task()) is task:
            return
    caller = (weakref.ref(thread), None if task is None else weakref.ref(task))
    _callers.set((*callers, caller))


def is_given_up() -> bool:
    """Return whether nobody waits any more for what this thread computes."""
    callers = _callers.get()
    family = {threading.current_thread()}
    for thread_ref, task_ref in callers:
        task = None if task_ref is None else task_ref()
        if task is not None and task.cancelled():
            return True
        if (thread := thread_ref()) is not None:
            family.add(thread)
    return not family.isdisjoint(_threads_given_up())


def _threads_given_up() -> frozenset[threading.Thread]:
    """Return the threads of pools whose blocks are being left with an error."""
    global _latest
    now = time.monotonic()
    looked, found = _latest
    if now - looked >= INTERVAL:
        found = frozenset(t for frame in sys._current_frames().values() for t in _left(frame))
        _latest = (now, found)
    return found


def _left(frame: FrameType | None) -> list[threading.Thread]:
    threads: list[threading.Thread] = []
    while frame is not None:
        if frame.f_code.co_name == "__exit__":
            names = frame.f_locals
            error, owner = names.get("exc_type"), names.get("self")
            pool = owner if isinstance(owner, Executor) else getattr(owner, "executor", None)
            if isinstance(pool, Executor) and _means_it(error, owner):
                threads += getattr(pool, "_threads", ())
        frame = frame.f_back
    return threads


def _means_it(error: object, owner: object) -> bool:
    """Return whether an error of this type is the end of all that a pool does.

    It is for pools that LangChain and LangGraph made for one call, whose results nobody else can
    have. Somebody who made a pool may catch an error outside of its block, and look at its other
    results then; but not Ctrl-C's.
    """
    if not isinstance(error, type):
        return False
    module = type(owner).__module__.partition(".")[0]
    return module in {"langchain_core", "langgraph"} or not issubclass(error, Exception)


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop runs here
        return None
