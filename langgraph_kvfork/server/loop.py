"""The event loop on which all that is said to servers runs: one thread, one set of connections.

Callers in threads and callers in event loops of their own come here alike. So a call can be
cancelled wherever it is (connections are closed, and the server stops), calls that are made at the
same time can be put together without locks, and connections outlast the loops of `asyncio.run`.
A caller's context variables come along.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, TypeVar

from langgraph_kvfork.branches.cancel_scope import current_scope
from langgraph_kvfork.branches.given_up import INTERVAL, is_given_up
from langgraph_kvfork.chat.errors import BranchCancelledError

_Result = TypeVar("_Result")
_Item = TypeVar("_Item")
_END: Any = object()


class _Thread:
    """The loop and its thread, which begins with the first call."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                # a daemon: at the end of the process nobody waits for answers
                threading.Thread(
                    target=self._loop.run_forever, name="kvfork servers", daemon=True
                ).start()
            return self._loop


_thread = _Thread()
_forgotten: list[Callable[[], None]] = []


def after_fork(forget: Callable[[], None]) -> None:
    """Call a function in processes that are forked off: what belongs to the loop is not theirs."""
    _forgotten.append(forget)


def _after_fork_in_child() -> None:
    global _thread
    _thread = _Thread()
    for forget in _forgotten:
        forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class _Member:
    """What a fan-out can cancel."""

    def __init__(self, future: concurrent.futures.Future[Any]) -> None:
        self._future = future

    def cancel(self) -> None:
        self._future.cancel()


def _begin(call: Coroutine[Any, Any, _Result]) -> concurrent.futures.Future[_Result]:
    return asyncio.run_coroutine_threadsafe(call, _thread.loop())


def wait_for(call: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a coroutine on the loop, and wait for its end in this thread.

    Raises:
        BranchCancelledError: Its fan-out was cancelled, or nobody waits for it any more.
    """
    future = _begin(call)
    member = _Member(future)
    if (scope := current_scope()) is not None:
        scope.add(member)
    try:
        while not future.done():
            concurrent.futures.wait([future], INTERVAL)
            _check_wanted()
        return future.result()
    except concurrent.futures.CancelledError:
        raise BranchCancelledError(_CANCELLED) from None
    finally:
        future.cancel()


async def await_for(call: Coroutine[Any, Any, _Result]) -> _Result:
    """As `wait_for`, in a task of another event loop; a task that is cancelled cancels it."""
    return await asyncio.wrap_future(_begin(call))


def items_of(stream: AsyncGenerator[_Item, None]) -> Iterator[_Item]:
    """Iterate in this thread over what a generator on the loop yields.

    Raises:
        BranchCancelledError: Its fan-out was cancelled, or nobody waits for it any more.
    """
    items: queue.SimpleQueue[_Item] = queue.SimpleQueue()
    future = _begin(_pump(stream, items.put))
    future.add_done_callback(lambda _: items.put(_END))
    member = _Member(future)
    if (scope := current_scope()) is not None:
        scope.add(member)
    try:
        while True:
            try:
                item = items.get(timeout=INTERVAL)
            except queue.Empty:
                _check_wanted()
                continue
            if item is _END:
                break
            yield item
        future.result()
    except concurrent.futures.CancelledError:
        raise BranchCancelledError(_CANCELLED) from None
    finally:
        future.cancel()


async def aitems_of(stream: AsyncGenerator[_Item, None]) -> AsyncIterator[_Item]:
    """As `items_of`, in a task of another event loop."""
    loop, items = asyncio.get_running_loop(), asyncio.Queue[_Item]()

    def put(item: _Item) -> None:
        try:
            loop.call_soon_threadsafe(items.put_nowait, item)
        except RuntimeError:  # the loop is closed, so nobody waits for it
            future.cancel()

    future = _begin(_pump(stream, put))
    future.add_done_callback(lambda _: put(_END))
    try:
        while (item := await items.get()) is not _END:
            yield item
        future.result()
    finally:
        future.cancel()


_CANCELLED = "The call was cancelled: its fan-out ended without it, or nobody waits for it."


def _check_wanted() -> None:
    if is_given_up():
        raise BranchCancelledError(_CANCELLED)


async def _pump(stream: AsyncGenerator[_Item, None], put: Callable[[_Item], None]) -> None:
    try:
        async for item in stream:
            put(item)
    finally:
        await stream.aclose()
