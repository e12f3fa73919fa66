"""The thread for work that would block an event loop: looking at files, tokenizing prompts."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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


def _after_fork_in_child() -> None:
    global _thread
    _thread = _new_thread()  # the parent's does not exist here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
