"""Calls that come together and begin alike are one fan-out, whoever sends them.

A call with a long prompt waits a moment, for as long as others keep coming. What has come by then
is put into groups that begin alike; each group is a `FanOut`. How the branches of one share their
prefix is the server's way (`Way`): `slots.py`, `warm.py`.

All of it runs on one loop, so that nothing needs a lock.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from langgraph_kvfork.server.prompt_text import LEAST, alike, common_text, prompt_text

WINDOW = 0.04
"""Seconds without another call after which a fan-out is complete."""

MOST_WINDOWS = 5
"""Windows that a call waits at most, while others keep coming."""

_numbers = itertools.count(1)


@dataclass(eq=False)
class Place:
    """How one call is sent, and what was computed for it ahead.

    Attributes:
        body: What is added to the request's body.
        headers: What is added to its headers.
        branch_id: The call's number in reports.
        parent_id: The number of the call that its prefix was computed for; None: nobody knows.
        ahead: Tokens of its prompt that were computed ahead on its behalf.
        ahead_ms: How long that took, in milliseconds.
    """

    body: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    branch_id: int = field(default_factory=lambda: next(_numbers))
    parent_id: int | None = None
    ahead: int = 0
    ahead_ms: float = 0.0


@dataclass(eq=False)
class Member:
    """A call that waits for its fan-out.

    Attributes:
        payload: The request.
        text: Its prompt's text.
        found: Its fan-out, as soon as it is known.
        tokens: Its prompt's tokens, where the server's way has asked for them.
    """

    payload: dict[str, Any]
    text: str
    found: asyncio.Future[FanOut]
    tokens: list[int] = field(default_factory=list)


class FanOut:
    """Calls that begin alike.

    Attributes:
        members: The calls.
        text: What their prompts have in common, as text.
        first: The number of the call that the prefix is computed for.
        state: What the server's way has found out, to be used by all of them.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = list(members)
        self.text = common_text([member.text for member in members])
        self.first: int | None = None
        self.state: Any = None
        self.turn = asyncio.Lock()
        self._n_waiting = len(self.members)
        self._prepared: asyncio.Task[None] | None = None

    async def prepared(self, way: Way) -> None:
        """Wait until the way has prepared it; the last one who gives up ends that."""
        if self._prepared is None:
            self._prepared = asyncio.create_task(way.prepare(self))
        try:
            await asyncio.shield(self._prepared)
        finally:
            self._n_waiting -= 1
            if not self._n_waiting and not self._prepared.done():
                self._prepared.cancel()


class Way(Protocol):
    """How a server's requests share a prefix."""

    async def prepare(self, fan_out: FanOut) -> None:
        """Do what comes before all branches. It raises nothing: without it, nothing is shared."""

    def place(self, fan_out: FanOut, member: Member) -> AbstractAsyncContextManager[Place]:
        """Wait until a branch may go, and return how; the block is the branch's request."""

    def note(self, timings: dict[str, Any]) -> None:
        """Take note of what a server said of its speeds with an answer."""


class Gatherer:
    """Puts the calls to one server together.

    Args:
        way: How its requests share.
    """

    def __init__(self, way: Way) -> None:
        self.way = way
        self._waiting: list[Member] = []
        self._window: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def place(self, payload: dict[str, Any]) -> AsyncIterator[Place]:
        """Let a call wait for its fan-out and its turn; the block is its request."""
        text = prompt_text(payload)
        if len(text) < LEAST or "messages" not in payload:
            yield Place()
            return
        member = Member(payload, text, asyncio.get_running_loop().create_future())
        self._waiting.append(member)
        if self._window is None:
            self._window = asyncio.create_task(self._close())
        try:
            fan_out = await member.found
        except asyncio.CancelledError:
            if member in self._waiting:
                self._waiting.remove(member)
            raise
        await fan_out.prepared(self.way)
        async with self.way.place(fan_out, member) as place:
            yield place

    async def _close(self) -> None:
        n = len(self._waiting)
        for _ in range(MOST_WINDOWS):
            await asyncio.sleep(WINDOW)
            if len(self._waiting) == n:
                break
            n = len(self._waiting)
        members, self._waiting, self._window = self._waiting, [], None
        members = [member for member in members if not member.found.done()]
        for group in alike([member.text for member in members]):
            fan_out = FanOut([members[i] for i in group])
            for member in fan_out.members:
                member.found.set_result(fan_out)
