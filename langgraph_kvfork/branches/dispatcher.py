"""The thread that carries events from the engine to the mailboxes of its branches.

One thread per engine polls `kvf_poll`, turns the structs into values, since their pointers die with
the next poll, and puts each into its branch's mailbox. It never runs code of a caller, so a slow
caller holds up nobody.

An event always finds a mailbox: a branch is submitted and its mailbox entered under one lock, which
the thread takes before it delivers. A branch's last event removes its mailbox. When the engine is
closed, or the thread dies, each mailbox that is left gets an error, so nobody waits for ever.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from langgraph_kvfork.branches.events import (
    Done,
    FinishReason,
    Logprob,
    PrefillProgress,
    Token,
    Usage,
)
from langgraph_kvfork.branches.mailbox import Item, LoopMailbox, Mailbox
from langgraph_kvfork.errors import (
    BranchCancelledError,
    EngineClosedError,
    GenerationError,
    KVForkError,
)
from langgraph_kvfork.native import abi
from langgraph_kvfork.native.abi import EventType, Finish, Native, error_of

_BATCH = 256
"""Most events taken from the engine at a time."""

_FINISH_REASONS: dict[int, FinishReason] = {
    Finish.STOP: "stop",
    Finish.LENGTH: "length",
    Finish.PREFILLED: "prefilled",
}


class Dispatcher:
    """Polls one engine from a thread of its own until the engine is closed.

    Args:
        native: The native library.
        handle: The engine's `kvf_engine *`; it must outlive `join`.
        name: For the thread.
        cell_bytes: For every `Usage`.
    """

    def __init__(self, native: Native, handle: int, name: str, cell_bytes: int | None) -> None:
        self._native = native
        self._handle = handle
        self._cell_bytes = cell_bytes
        self._mailboxes: dict[int, Mailbox] = {}
        self._ended: KVForkError | None = None
        self._muted = False
        # held from before a branch exists until its mailbox is known, so no event finds none;
        # reentrant: a garbage collection inside may come back here
        self._lock = threading.RLock()
        # a daemon: it must not keep the process from ending before atexit closes the engine
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def add(self, submit: Callable[[], int], mailbox: Mailbox) -> int:
        """Submit a branch whose events go to `mailbox`.

        Args:
            submit: Calls the engine; returns the branch's id, 0 on failure. It must not block.
            mailbox: Where the branch's events go.

        Returns:
            What `submit` returned.

        Raises:
            KVForkError: Nobody reads the engine's events any more.
        """
        with self._lock:
            if self._ended is not None:
                raise _copy(self._ended)
            branch = submit()
            if branch:
                self._mailboxes[branch] = mailbox
            return branch

    def mute(self) -> None:
        """Deliver nothing more: the process ends, and nobody who waits may wake up."""
        self._muted = True

    def join(self) -> None:
        """Wait until the engine's last event is delivered. The engine must be closing."""
        self._thread.join()

    def _run(self) -> None:
        error: KVForkError = EngineClosedError("The engine was closed.")
        try:
            self._poll()
        except Exception as failure:
            error = GenerationError(f"The thread that reads the engine's events died: {failure!r}.")
            raise
        finally:
            # after an orderly close nobody is left here
            with self._lock:
                self._ended = error
                left = list(self._mailboxes.items())
                self._mailboxes.clear()
            self._deliver([(branch, box, [_copy(error)]) for branch, box in left])

    def _poll(self) -> None:
        buffer = (abi.Event * _BATCH)()
        poll = self._native.kvf.kvf_poll
        while (count := poll(self._handle, buffer, _BATCH, -1)) >= 0:
            items: dict[int, list[Item]] = {}
            ended: set[int] = set()
            for event in buffer[:count]:
                item = _item(event, self._cell_bytes)
                items.setdefault(event.branch_id, []).append(item)
                if event.type == EventType.DONE:
                    ended.add(event.branch_id)
            with self._lock:
                batch = [(branch, self._mailboxes[branch], items[branch]) for branch in items]
                for branch in ended:
                    del self._mailboxes[branch]
            self._deliver(batch)

    def _deliver(self, batch: list[tuple[int, Mailbox, list[Item]]]) -> None:
        if self._muted:
            return
        # one wake-up per loop, however many of its branches have news
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[LoopMailbox, list[Item]]]] = {}
        for _, mailbox, items in batch:
            if isinstance(mailbox, LoopMailbox):
                by_loop.setdefault(mailbox.loop, []).append((mailbox, items))
            else:
                mailbox.put(items)
        for loop, deliveries in by_loop.items():
            try:
                loop.call_soon_threadsafe(_put_all, deliveries)
            except RuntimeError:  # noqa: PERF203 - it is per loop, and there is one as a rule
                # the loop was closed under its tasks: nobody waits for these branches any more
                self._cancel_all(branch for branch, box, _ in batch if _belongs(box, loop))

    def _cancel_all(self, branches: Iterable[int]) -> None:
        for branch in branches:
            self._native.kvf.kvf_cancel(self._handle, branch)


def _copy(error: KVForkError) -> KVForkError:
    # one exception raised in several threads would mix their tracebacks
    return type(error)(str(error))


def _belongs(mailbox: Mailbox, loop: asyncio.AbstractEventLoop) -> bool:
    return isinstance(mailbox, LoopMailbox) and mailbox.loop is loop


def _put_all(deliveries: Sequence[tuple[LoopMailbox, list[Item]]]) -> None:
    for mailbox, items in deliveries:
        mailbox.put(items)


def _item(event: Any, cell_bytes: int | None) -> Item:
    """Turn a `kvf_event`, whose pointers die with the next poll, into a value."""
    if event.type == EventType.PREFILL:
        return PrefillProgress(done=event.n_done, total=event.usage.n_prompt)
    # the engine sends whole characters; a broken one must not end the thread that all branches need
    text = (
        ctypes.string_at(event.text, event.n_text).decode(errors="replace") if event.n_text else ""
    )
    if event.type == EventType.TOKEN:
        logprobs = tuple(
            Logprob(p.token, p.logit, p.logprob) for p in event.logprobs[: event.n_logprobs]
        )
        return Token(text=text, token=event.token, logprobs=logprobs)
    if event.finish == Finish.ERROR:
        return error_of(event.error, text)
    if event.finish == Finish.CANCELLED:
        return BranchCancelledError("The branch was cancelled.")
    return Done(
        finish_reason=_FINISH_REASONS[event.finish],
        usage=_usage(event.branch_id, event.usage, cell_bytes),
    )


def _usage(branch_id: int, usage: Any, cell_bytes: int | None) -> Usage:
    return Usage(
        branch_id=branch_id,
        prompt_tokens=usage.n_prompt,
        forked_tokens=usage.n_forked,
        prefilled_tokens=usage.n_prefilled,
        generated_tokens=usage.n_generated,
        preemptions=usage.n_preempted,
        parent_id=cast("int", usage.parent_id) or None,
        wait_ms=usage.t_wait,
        prefill_ms=usage.t_prefill,
        decode_ms=usage.t_decode,
        recomputed_tokens=usage.n_recomputed,
        wanted_n_ctx=usage.n_cells_wanted or None,
        gap_ms=usage.t_gap,
        restored_tokens=usage.n_restored,
        restore_ms=usage.t_restore,
        cell_bytes=cell_bytes,
    )
