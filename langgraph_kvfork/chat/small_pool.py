"""Warning that a pool of cells was too small for the calls that ran at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from langgraph_kvfork.branches.events import Done, Event, Usage
from langgraph_kvfork.engine.engine import Engine
from langgraph_kvfork.warning import is_news, warn

_PAGE = 64
"""Cells in a page; a branch may leave the rest of one empty."""

_STEP = 256
"""What a recommended `n_ctx` is a multiple of."""

_MOST_WARNED = 1024
"""Runs to remember; more would grow for ever."""

_MOST_CALLS = 512
"""Calls of a run to remember while others of it go on."""


class SmallPoolWarning(UserWarning):
    """The pool could not hold all branches at once.

    Some had to wait until others had ended, or gave up their cells and were computed again.
    """


@dataclass(slots=True, eq=False)
class _Call:
    """A call of a run.

    Attributes:
        beside: The calls that ran when it came.
        usage: What it took; None: it has not ended, or not well.
    """

    beside: list[_Call]
    usage: Usage | None = None


@dataclass(slots=True, eq=False)
class _Group:
    """Calls of one run that overlap.

    Attributes:
        running: Those that have not ended.
        calls: All of them.
    """

    running: dict[_Call, None] = field(default_factory=dict)
    calls: list[_Call] = field(default_factory=list)


# reentrant, since a stream that is collected ends its block wherever the collector runs
_lock = threading.RLock()
_groups: dict[tuple[int, int], _Group] = {}
_warned: dict[tuple[int, int], object] = {}


@contextlib.contextmanager
def watched_pool(engine: Engine, run_id: int) -> Iterator[Callable[[Event], None]]:
    """Warn once per run if the pool could not hold all of its overlapping calls.

    Args:
        engine: The engine that computes the call.
        run_id: The run that it is a part of; 0: none.

    Yields:
        What takes the call's events.
    """
    key = id(engine), run_id
    stats = engine.stats()
    total = stats.cells_total if stats.parts else 0  # recurrent states take no cells
    call = _Call([])
    with _lock:
        group = _groups.setdefault(key, _Group())
        call.beside += group.running
        group.running[call] = None
        group.calls.append(call)
        for forgotten in group.calls[:-_MOST_CALLS]:
            forgotten.beside.clear()  # or each call would keep all before it
        del group.calls[:-_MOST_CALLS]

    def take(event: Event) -> None:
        if isinstance(event, Done):
            call.usage = event.usage

    try:
        yield take
    finally:
        with _lock:
            del group.running[call]
            is_last = not group.running
            if is_last:
                _groups.pop(key, None)
        sentences = None
        if is_last and total and key not in _warned:
            sentences = _sentences(total, engine.n_seq_max, group.calls)
        if sentences is not None:
            if len(_warned) >= _MOST_WARNED:
                _warned.clear()
            if is_news(_warned, key):
                warn(sentences, SmallPoolWarning)


def _sentences(total: int, n_seq_max: int, calls: Sequence[_Call]) -> str | None:
    """Return the warning about a run's calls; None: all is well.

    Args:
        total: Cells of the pool.
        n_seq_max: How many calls can run at a time, however many cells there are.
        calls: The calls.
    """
    at_once = [_largest([*call.beside, call], n_seq_max) for call in calls]
    preempted = [c.usage for c in calls if c.usage is not None and c.usage.preemptions]
    n_waited = sum(bool(usages) and _least(usages) > total for usages in at_once)
    lost = []
    if preempted:
        again = sum(usage.recomputed_tokens for usage in preempted)
        lost.append(
            f"{len(preempted)} of them had to give up their cells, and {again:,} tokens were "
            "computed again"
        )
    if n_waited:
        lost.append(f"{n_waited} of them had to wait until others had ended")
    if not lost:
        return None
    enough = max(total + _STEP, *(_enough(usages) for usages in at_once if usages))
    remedy = "With that, all run at once"
    if preempted:
        remedy = "So would fewer branches at a time (max_concurrency), or a lower max_tokens"
    return (
        f"n_ctx={total} was too small for {max(map(len, at_once))} branches at a time: "
        f"{'; '.join(lost)}. n_ctx={-(-enough // _STEP) * _STEP} would do. {remedy}."
    )


def _largest(calls: Sequence[_Call], most: int) -> list[Usage]:
    """Return the usages of so many calls that take the most room of their own."""
    usages = [call.usage for call in calls if call.usage is not None]
    return sorted(usages, key=lambda usage: usage.forked_tokens - usage.prompt_tokens)[:most]


def _least(usages: Sequence[Usage]) -> int:
    """Return how many cells their prompts take at least, with what they share."""
    shared = min(usage.forked_tokens for usage in usages)
    return shared + sum(usage.prompt_tokens - usage.forked_tokens for usage in usages)


def _enough(usages: Sequence[Usage]) -> int:
    """Return how many cells would have held all of them at once, up to their ends."""
    shared = max(usage.forked_tokens for usage in usages)
    own = sum(u.prompt_tokens - u.forked_tokens + u.generated_tokens + 2 * _PAGE for u in usages)
    return shared + own
