"""Cancelling what other threads wait for.

A thread cannot be cancelled, but the branch that it waits for can: a fan-out opens a scope, the
sync branches that its threads start join it, and when one of them fails the scope cancels the
others. A scope within a scope is one of its members.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol


class Cancellable(Protocol):
    """What a scope can hold."""

    def cancel(self) -> None:
        """End it without waiting for that."""


class CancelScope:
    """Branches that are cancelled together. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._cancelled = False
        self._members: weakref.WeakSet[Cancellable] = weakref.WeakSet()

    @property
    def is_cancelled(self) -> bool:
        """Whether all that joins it is cancelled."""
        return self._cancelled

    def add(self, member: Cancellable) -> None:
        """Let `member` share the scope's fate; it is cancelled at once if the scope already is."""
        with self._lock:
            self._members.add(member)
            cancelled = self._cancelled
        if cancelled:
            member.cancel()

    def cancel(self) -> None:
        """Cancel all members, and all that will still be added."""
        with self._lock:
            self._cancelled = True
            members = list(self._members)
        for member in members:
            member.cancel()


_current: ContextVar[CancelScope | None] = ContextVar("kvfork_cancel_scope", default=None)


def current_scope() -> CancelScope | None:
    """Return the scope that this context runs in, if any."""
    return _current.get()


@contextlib.contextmanager
def cancel_scope() -> Iterator[CancelScope]:
    """Open a scope for this context and those copied from it; cancel it if the block raises."""
    scope = CancelScope()
    outer = current_scope()
    if outer is not None:
        outer.add(scope)
    token = _current.set(scope)
    try:
        yield scope
    except BaseException:
        scope.cancel()
        raise
    finally:
        _current.reset(token)
