"""One generation, as the one who asked for it sees it.

A branch is an iterator of events, for a thread (`Branch`) or a task (`AsyncBranch`). It computes
nothing: its events come from the engine through a mailbox, whether anybody takes them or not. It
cancels itself when nobody can want it any more: when its loop or its block is left, when its task
is cancelled, when it is collected as garbage, or when whoever waited for its thread has given up
(`given_up.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Protocol, TypeVar

from typing_extensions import Self

from langgraph_kvfork.branches.cancel_scope import current_scope
from langgraph_kvfork.branches.events import Done, Event
from langgraph_kvfork.branches.given_up import INTERVAL, is_given_up
from langgraph_kvfork.branches.mailbox import Item, LoopMailbox, ThreadMailbox
from langgraph_kvfork.errors import BranchCancelledError, GenerationTimeoutError, KVForkError

_AnyBranch = TypeVar("_AnyBranch", "Branch", "AsyncBranch")


class BranchOwner(Protocol):
    """The engine, as its branches see it."""

    def cancel_branch(self, branch_id: int) -> None:
        """End a branch within one batch step, without waiting for that."""

    def fork_branch(self, parent: _AnyBranch, branch: _AnyBranch, seed: int | None) -> _AnyBranch:
        """Let `branch`, which is new, go on from where `parent` is."""


class _BranchBase:
    """What both kinds of branch have.

    Attributes:
        id: The branch's number for life; `Usage.parent_id` refers to it.
    """

    id: int

    def __init__(self, owner: BranchOwner, timeout: float | None) -> None:
        # set first: __del__ also runs when the submission below fails
        self._ended = True
        self._owner = owner
        self._timeout = timeout

    @property
    def ended(self) -> bool:
        """Whether the branch's last event has been taken, or the branch cancelled."""
        return self._ended

    def cancel(self) -> None:
        """End the branch within one batch step, without waiting for that. From any thread.

        Somebody who waits for its events gets `BranchCancelledError`. A branch that has ended stays
        as it is.
        """
        if not self._ended:
            self._owner.cancel_branch(self.id)

    def __del__(self) -> None:
        # the caller lost interest: a loop was left early, or its task is gone
        self.cancel()

    def _take(self, item: Item | None) -> Event:
        """Return an item that is an event, raise one that is an error."""
        if item is None:
            self._stop()
            raise GenerationTimeoutError(
                f"The branch was not done after timeout={self._timeout} seconds: allow it more, or "
                "ask for fewer tokens with max_tokens."
            )
        if isinstance(item, KVForkError):
            self._ended = True
            raise item
        if isinstance(item, Done):
            self._ended = True
        return item

    def _stop(self) -> None:
        self.cancel()
        self._ended = True


class Branch(_BranchBase, Iterator[Event]):
    """A branch whose events are taken in a thread: iterate over it.

    The last event is a `Done`; a branch that fails raises instead. Leaving the loop early and
    dropping the branch cancels it, and so does leaving it as a context manager. One thread at a
    time.

    While it waits it can be interrupted by Ctrl-C, which cancels the branch.

    Raises:
        ContextOverflowError: The context is too small.
        BranchCancelledError: Another thread cancelled it, or nobody waits any more for what this
            thread computes.
        EngineClosedError: The engine was closed.
        GenerationError: The model or the back end failed.
        GenerationTimeoutError: It was not done in time.
    """

    def __init__(self, owner: BranchOwner, timeout: float | None = None) -> None:
        super().__init__(owner, timeout)
        self._mailbox = ThreadMailbox()
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._next_look = 0.0

    def __next__(self) -> Event:
        if self._ended:
            raise StopIteration
        try:
            while (item := self._next_item()) is None and not self._is_late():
                pass
        except BaseException:
            self._stop()
            raise
        return self._take(item)

    def _next_item(self) -> Item | None:
        """Return the next item; None if there is none for a while, or in time."""
        now = time.monotonic()
        if now >= self._next_look:
            if is_given_up():
                raise BranchCancelledError(
                    "The branch was cancelled, since whoever waited for it has given up: an error, "
                    "a time limit or Ctrl-C ended the call that this thread worked for."
                )
            self._next_look = now + INTERVAL
        until = self._next_look if self._deadline is None else min(self._deadline, self._next_look)
        return self._mailbox.take(until)

    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def fork(self, seed: int | None = None) -> Branch:
        """Fork this branch where it is now; the new one goes on from there.

        Args:
            seed: For the fork's sampling. None keeps the random state, so the fork says what this
                branch says.

        Returns:
            A branch whose events carry only what comes after the fork.

        Raises:
            EngineClosedError: The engine is closed.
        """
        return self._owner.fork_branch(self, Branch(self._owner, self._timeout), seed)

    def _submitted(self, branch_id: int) -> Self:
        self.id = branch_id
        self._ended = False
        scope = current_scope()
        if scope is not None:
            scope.add(self)
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()


class AsyncBranch(_BranchBase, AsyncIterator[Event]):
    """A branch whose events are taken in a task: iterate over it with `async for`.

    As `Branch`; and when the task that waits for an event is cancelled, so is the branch, at once
    and without the loop waiting for it. It belongs to the event loop that it was made in.
    """

    def __init__(self, owner: BranchOwner, timeout: float | None = None) -> None:
        super().__init__(owner, timeout)
        loop = asyncio.get_running_loop()
        self._mailbox = LoopMailbox(loop)
        self._deadline = None if timeout is None else loop.time() + timeout

    async def __anext__(self) -> Event:
        if self._ended:
            raise StopAsyncIteration
        try:
            item = await self._mailbox.take(self._deadline)
        except BaseException:
            self._stop()
            raise
        return self._take(item)

    def fork(self, seed: int | None = None) -> AsyncBranch:
        """Fork this branch where it is now, as `Branch.fork` does."""
        return self._owner.fork_branch(self, AsyncBranch(self._owner, self._timeout), seed)

    def _submitted(self, branch_id: int) -> Self:
        self.id = branch_id
        self._ended = False
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()
