"""Threads for work that would block an event loop: files, tokenizing prompts, slow disks."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from langgraph_kvfork.engine.registry import result_of

_Result = TypeVar("_Result")


def _new_thread() -> ThreadPoolExecutor:
    # one thread, so that prompts come to the engine in the order in which they were asked for; and
    # not the loop's own pool, whose few threads may all be waiting for answers
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="kvfork prompts")


_thread = _new_thread()


async def in_prompt_thread(function: Callable[[], _Result]) -> _Result:
    """Call a function that takes some time, and let the event loop go on meanwhile."""
    try:
        future = _thread.submit(function)
    except RuntimeError:
        # Python has ended its pools, since the process ends: this is the loop of a daemon thread
        return function()
    try:
        return await result_of(future)
    finally:
        future.cancel()  # if it has not begun, nobody wants it any more


async def in_own_thread(function: Callable[[], _Result]) -> _Result:
    """As `in_prompt_thread`, for what may take so long that prompts should not wait for it."""
    future: Future[_Result] = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 - raised in the caller that waits
            future.set_exception(error)

    # a daemon: the process may end while a disk does not answer
    threading.Thread(target=call, name="kvfork store", daemon=True).start()
    return await result_of(future)


def _after_fork_in_child() -> None:
    global _thread
    _thread = _new_thread()  # the parent's does not exist here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
