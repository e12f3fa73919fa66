"""Who uses an engine, and when it is closed.

Two kinds of use are counted. A *call* is inside the native library, or reads what the engine will
free: freeing waits for it, so no call ever meets freed memory. A *hold* is a block that wants to
find the engine again in a moment: only the keep-alive regards it, and `close` does not.

An engine is closed once, by whoever comes first: `close`, or the keep-alive, when nobody has held
the engine for its time and no branch runs or waits. From then on calls are refused. In a process
that was forked off, the engine's threads do not exist, so calls are refused from the beginning.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from langgraph_kvfork.engine.ending import native_work, stop_if_ending
from langgraph_kvfork.engine.keep_alive import IdleTimer
from langgraph_kvfork.errors import EngineClosedError, KVForkError, ProcessForkedError

FORKED = (
    "This process was forked off one that had loaded a model already, whose threads do not exist "
    "here: load models only after forking, or start processes by another method, for instance "
    "multiprocessing.get_context('spawn')."
)
"""The message of a `ProcessForkedError`."""


class Lifetime:
    """Counts the calls and holds of one engine, and closes it. Safe to use from any thread.

    Args:
        name: The engine, for messages.
        is_busy: Whether a branch runs or waits. Called while the engine is open.
        free: Frees the engine. Called once, when it is closed; it calls `wait_for_calls` before it
            frees what calls use.
    """

    def __init__(self, name: str, is_busy: Callable[[], bool], free: Callable[[], None]) -> None:
        self._name = name
        self._is_busy = is_busy
        self._free = free
        # reentrant: a garbage collection inside may cancel a branch, which comes here too. Always
        # taken itself: a condition is entered and left in Python, where Ctrl-C leaves it locked
        self._lock = threading.RLock()
        self._calls_over = threading.Condition(self._lock)
        self._calls: set[object] = set()
        self._n_holds = 0
        self._closed = False
        self._closed_how = "closed"
        self._forked = False
        self._keep_alive: float | None = None
        self._timer = IdleTimer(self._close_if_unused)

    @property
    def closed(self) -> bool:
        """Whether the engine is closed, or about to be."""
        return self._closed

    @contextmanager
    def call_if_open(self) -> Iterator[bool]:
        """Keep the engine from being freed during the block, which gets whether it is open."""
        call = object()
        try:
            with self._lock:
                if not self._closed:
                    self._calls.add(call)
            yield call in self._calls
        finally:
            # the first thing, and one step: Ctrl-C comes before the `finally`, or behind the step
            self._calls.discard(call)
            if self._closed:
                with self._lock:
                    self._calls_over.notify_all()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Keep the engine from being freed during the block.

        Raises:
            EngineClosedError: It is closed.
            ProcessForkedError: It belongs to the process that this one was forked off.
        """
        stop_if_ending()
        try:
            with self.call_if_open() as is_open:
                if is_open:
                    yield
        finally:
            stop_if_ending()
        if not is_open:
            raise self._refusal()

    def wait_for_calls(self) -> None:
        """Wait until no call is under way. Called after the engine was closed, so none begins."""
        with self._lock:
            while self._calls:
                self._calls_over.wait(1.0)  # Ctrl-C may have come before the notice

    def hold(self) -> bool:
        """Stop the keep-alive until `let_go`; return False if the engine is closed.

        Raises:
            ProcessForkedError: It belongs to the process that this one was forked off.
        """
        with self._lock:
            if self._forked:
                raise self._refusal()
            self._n_holds += not self._closed
            return not self._closed

    def let_go(self, keep_alive: float | None) -> None:
        """End a hold.

        Args:
            keep_alive: Seconds after which the engine is closed if nobody uses it; None: never.
        """
        with self._lock:
            self._n_holds -= 1
            self._keep_alive = keep_alive
            if not self._n_holds and not self._closed:
                self._timer.start(keep_alive)

    def close(self) -> None:
        """Close the engine and free it, unless it is closed already."""
        with native_work:
            with self._lock:
                if self._closed:
                    return
                self._closed = True
            self._timer.stop_timer()
            self._free()

    def abandon(self) -> None:
        """Refuse all calls, in a process that was forked off."""
        self._lock = threading.RLock()
        self._calls_over = threading.Condition(self._lock)
        self._closed = self._forked = True

    def _close_if_unused(self) -> bool:
        """Close the engine if nobody uses it; return False if it is used and has to be asked again.

        Whoever holds it starts the timer anew.
        """
        with native_work:
            with self._lock:
                if self._closed or self._n_holds or self._keep_alive is None:
                    return True
                if self._calls or self._is_busy():
                    return False
                self._closed = True
                self._closed_how = f"closed: nobody had used it for {self._keep_alive:g} s"
            self._timer.stop_timer()
            self._free()
        return True

    def _refusal(self) -> KVForkError:
        if self._forked:
            return ProcessForkedError(FORKED)
        return EngineClosedError(
            f"The engine of {self._name} is {self._closed_how}: get another with Engine.get()."
        )
