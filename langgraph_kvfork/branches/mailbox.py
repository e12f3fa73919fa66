"""Where a branch's events wait for the one who asked for them.

The engine's dispatcher thread delivers, a caller's thread or task takes. A mailbox holds events,
and at its end a `Done` or an exception.
"""

from __future__ import annotations

import asyncio
import queue
import time
from collections import deque
from collections.abc import Sequence
from typing import TypeAlias, Union

from langgraph_kvfork.branches.events import Event
from langgraph_kvfork.errors import KVForkError

Item: TypeAlias = Union[Event, KVForkError]  # noqa: UP007


class ThreadMailbox:
    """For a caller who waits in a thread."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[Item] = queue.SimpleQueue()

    def put(self, items: Sequence[Item]) -> None:
        """Take items in. Called by the dispatcher."""
        for item in items:
            self._items.put(item)

    def take(self, until: float) -> Item | None:
        """Wait for the next item; None: there is none before `until`, on `time.monotonic`'s clock.

        Where a wait for a lock cannot be interrupted (Windows), Ctrl-C is noticed then.
        """
        try:
            return self._items.get(timeout=max(until - time.monotonic(), 0.0))
        except queue.Empty:
            return None


class LoopMailbox:
    """For a caller who waits in a task. All but `loop` is used in the loop's thread only.

    Attributes:
        loop: The task's event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._items: deque[Item] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, items: Sequence[Item]) -> None:
        """Take items in."""
        self._items.extend(items)
        self.wake()

    def wake(self) -> None:
        """Let `take` look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self, deadline: float | None) -> Item | None:
        """Wait for the next item.

        Args:
            deadline: When to give up, on the loop's clock; None: never.

        Returns:
            The item; None when the deadline has passed.
        """
        timer = self.loop.call_at(deadline, self.wake) if deadline is not None else None
        try:
            while not self._items:
                if deadline is not None and self.loop.time() >= deadline:
                    return None
                self._waiter = self.loop.create_future()
                await self._waiter
            return self._items.popleft()
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()


Mailbox: TypeAlias = Union[ThreadMailbox, LoopMailbox]  # noqa: UP007
