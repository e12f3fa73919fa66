"""At most one thing per key in a process, built by the first caller that asks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from contextlib import suppress
from typing import Generic, TypeVar

from langgraph_kvfork.engine.ending import stop_if_ending

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class Registry(Generic[_Key, _Value]):
    """Builds a value the first time that its key is asked for, and keeps it until it is removed.

    It is built in a thread of its own, and every caller waits for it: a wait can be interrupted by
    Ctrl-C or cancelled, and the others still get the value. A failure is raised in all of them and
    not kept. Safe to use from any thread.

    Args:
        build: Makes the value for a key; it may take long.
    """

    def __init__(self, build: Callable[[_Key], _Value]) -> None:
        self._build = build
        self._lock = threading.RLock()
        self._futures: dict[_Key, Future[_Value]] = {}

    def get(self, key: _Key) -> _Value:
        """Return the key's value, after building it or waiting until it is built."""
        return self._future(key).result()

    async def aget(self, key: _Key) -> _Value:
        """As `get`, without blocking the event loop."""
        return await result_of(self._future(key))

    def find(self, key: _Key) -> Future[_Value] | None:
        """Return the key's value as a future, if anybody asked for it; build nothing."""
        with self._lock:
            return self._futures.get(key)

    def remove(self, value: _Value) -> None:
        """Let go of a value, whatever keys it has."""
        with self._lock:
            for key, future in list(self._futures.items()):
                if future.done() and not future.exception() and future.result() is value:
                    del self._futures[key]

    def reset(self) -> None:
        """Forget all, in a process that was forked off: the threads that build are not there."""
        self._lock = threading.RLock()
        self._futures = {}

    def _future(self, key: _Key) -> Future[_Value]:
        with self._lock:
            future = self._futures.get(key)
            if future is None:
                future = self._futures[key] = Future()
                # as if it ran already, so that nobody who waits for it can cancel it for the others
                future.set_running_or_notify_cancel()
                # not the loop's pool: its few threads may all be busy waiting for something else; a
                # daemon: at the end of the process, what is being built is given up
                thread = threading.Thread(
                    target=self._fulfil, args=(key, future), name="kvfork load", daemon=True
                )
                try:
                    thread.start()
                except BaseException:
                    del self._futures[key]
                    raise
            return future

    def _fulfil(self, key: _Key, future: Future[_Value]) -> None:
        try:
            value = self._build(key)
        except BaseException as error:  # noqa: BLE001 - raised by everybody who waits for it
            stop_if_ending()
            with self._lock:
                self._futures.pop(key, None)
            future.set_exception(error)
        else:
            stop_if_ending()
            future.set_result(value)


async def result_of(future: Future[_Value]) -> _Value:
    """Wait for the result of a future of another thread, without blocking the event loop.

    As `asyncio.wrap_future`, but the loop may be closed under its tasks meanwhile: nothing is
    logged then.
    """
    if not future.done():
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def wake(_: Future[_Value]) -> None:
            with suppress(RuntimeError):  # closed: nobody waits any more
                loop.call_soon_threadsafe(done.set)

        future.add_done_callback(wake)
        await done.wait()
    return future.result()
