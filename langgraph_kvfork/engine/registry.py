"""At most one thing per key in a process, built by whoever asks first."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class Registry(Generic[_Key, _Value]):
    """Builds a value the first time that its key is asked for, and keeps it until it is removed.

    While one caller builds, the others wait for it. A failure is raised in all of them and not
    kept. Safe to use from any thread.

    Args:
        build: Makes the value for a key; it may take long.
    """

    def __init__(self, build: Callable[[_Key], _Value]) -> None:
        self._build = build
        self._lock = threading.RLock()
        self._futures: dict[_Key, Future[_Value]] = {}

    def get(self, key: _Key) -> _Value:
        """Return the key's value, after building it or waiting for whoever builds it."""
        future, ours = self._claim(key)
        if ours:
            self._fulfil(key, future)
        return future.result()

    async def aget(self, key: _Key) -> _Value:
        """As `get`, without blocking the event loop."""
        future, ours = self._claim(key)
        if ours:
            # not the loop's pool: its few threads may all be busy waiting for something else
            threading.Thread(target=self._fulfil, args=(key, future), daemon=True).start()
        if future.done():
            return future.result()
        return await asyncio.wrap_future(future)

    def remove(self, key: _Key, value: _Value) -> None:
        """Let go of `value`, if it is the key's."""
        with self._lock:
            future = self._futures.get(key)
            if future is None or not future.done():
                return
            if future.exception() is None and future.result() is value:
                del self._futures[key]

    def reset(self) -> None:
        """Forget all, in a process that was forked off: it has not the threads that build."""
        self._lock = threading.RLock()
        self._futures = {}

    def _claim(self, key: _Key) -> tuple[Future[_Value], bool]:
        """Return the key's future, and whether it is the caller who must fulfil it."""
        with self._lock:
            future = self._futures.get(key)
            if future is not None:
                return future, False
            future = self._futures[key] = Future()
            # as if it ran already, so that nobody who waits for it can cancel it for the others
            future.set_running_or_notify_cancel()
            return future, True

    def _fulfil(self, key: _Key, future: Future[_Value]) -> None:
        try:
            value = self._build(key)
        except BaseException as error:  # noqa: BLE001 - raised by everybody who waits for it
            with self._lock:
                self._futures.pop(key, None)
            future.set_exception(error)
        else:
            future.set_result(value)
