"""Warning that a pool of cells was too small for the calls that ran at a time."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from langgraph_kvfork.branches.events import Done, Event, Usage
from langgraph_kvfork.engine.engine import Engine

_PAGE = 64
"""Cells in a page; a branch may leave the rest of one empty."""

_STEP = 256
"""What a recommended `n_ctx` is a multiple of."""

_MOST_TOLD = 1024
"""Runs to remember; more would grow for ever."""


class SmallPoolWarning(UserWarning):
    """Branches had to give up their cells, and what they held was computed again."""


@dataclass(slots=True, eq=False)
class _Group:
    """Calls of one run that overlap.

    Attributes:
        n_running: How many have not ended.
        usages: Of those that have ended well.
    """

    n_running: int = 0
    usages: list[Usage] = field(default_factory=list)


# reentrant, since a stream that is collected ends its block wherever the collector runs
_lock = threading.RLock()
_groups: dict[tuple[int, int], _Group] = {}
_told: set[tuple[int, int]] = set()


@contextlib.contextmanager
def watched_pool(engine: Engine, run: int) -> Iterator[Callable[[Event], None]]:
    """Warn once per run if its overlapping calls preempted one another.

    Args:
        engine: Who computes the call.
        run: The run that it is a part of; 0: none.

    Yields:
        What takes the call's events.
    """
    key = id(engine), run
    with _lock:
        group = _groups.setdefault(key, _Group())
        group.n_running += 1

    def take(event: Event) -> None:
        if isinstance(event, Done):
            with _lock:
                group.usages.append(event.usage)

    try:
        yield take
    finally:
        with _lock:
            group.n_running -= 1
            is_news = False
            if group.n_running == 0:
                _groups.pop(key, None)
                is_news = _is_news(key, group)
        if is_news:
            warnings.warn(_sentences(engine, group.usages), SmallPoolWarning, stacklevel=2)


def _is_news(key: tuple[int, int], group: _Group) -> bool:
    if key in _told or not any(usage.preemptions for usage in group.usages):
        return False
    if len(_told) >= _MOST_TOLD:
        _told.clear()
    _told.add(key)
    return True


def _sentences(engine: Engine, usages: list[Usage]) -> str:
    total = engine.stats().cells_total
    again = sum(usage.recomputed_tokens for usage in usages)
    return (
        f"n_ctx={total} was too small for {len(usages)} branches at a time: "
        f"{sum(usage.preemptions > 0 for usage in usages)} of them had to give up their cells, and "
        f"{again:,} tokens were computed again. n_ctx={_enough(usages, total)} would do, and so "
        "would fewer branches at a time (max_concurrency) or a lower max_tokens."
    )


def _enough(usages: list[Usage], total: int) -> int:
    """Return how many cells would have held all branches at once, with what they shared."""
    shared = max(usage.forked_tokens for usage in usages)
    own = sum(u.prompt_tokens - u.forked_tokens + u.generated_tokens + 2 * _PAGE for u in usages)
    return -(-max(shared + own, total + _STEP) // _STEP) * _STEP
