"""Streams as their readers see them: how long until the first token, and how long between two."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage


@dataclass
class Stream:
    """What became of one answer.

    Attributes:
        first: Seconds until its first token.
        ends: When each of its tokens came.
        text: What it says.
    """

    first: float = 0.0
    ends: list[float] = field(default_factory=list)
    text: str = ""

    @property
    def gaps(self) -> list[float]:
        """Seconds between two tokens."""
        return [b - a for a, b in zip(self.ends, self.ends[1:], strict=False)]


async def read(
    llm: BaseChatModel,
    messages: Sequence[BaseMessage],
    *,
    n_tokens: int = 0,
    reached: asyncio.Event | None = None,
) -> Stream:
    """Stream an answer to its end, and set an event when there are so many tokens."""
    stream, start = Stream(), time.perf_counter()
    async for chunk in llm.astream(messages):
        if not chunk.text:
            continue
        now = time.perf_counter()
        stream.first = stream.first or now - start
        stream.ends.append(now)
        stream.text += chunk.text
        if reached and len(stream.ends) == n_tokens:
            reached.set()
    if not stream.ends:
        raise RuntimeError("a stream without a token")
    return stream


def percentile(values: Iterable[float], percent: float) -> float:
    """Return the smallest value that so many per cent of all are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
