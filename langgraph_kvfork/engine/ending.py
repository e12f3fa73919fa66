"""The end of the process.

When its interpreter ends, Python stops the daemon threads wherever they are, and C++ destroys what
is static. By then no thread may be inside the native library. And no thread may get an error about
it: nobody is left to handle that, so it would only be printed. Therefore the thread that ends the
process first stops what is loaded and computed, then waits until no other one is inside the
library, and a thread that comes out of it, or asks for more, is stopped for good, as Python stops
daemon threads a moment later. (Other threads have ended by then: Python waits for them first.)
"""

from __future__ import annotations

import os
import threading
from types import TracebackType

# always taken itself: a condition is entered and left in Python, where Ctrl-C would leave it locked
_lock = threading.RLock()
_work_done = threading.Condition(_lock)
_working: set[int] = set()
"""The threads in a block of `native_work`. Ctrl-C may leave the main thread in here for ever."""
_ender: int | None = None
"""The thread that ends the process, once it does."""


def is_ending() -> bool:
    """Return whether another thread than this one is ending the process."""
    return _ender is not None and _ender != threading.get_ident()


def stop_if_ending() -> None:
    """Stop this thread for good if another one is ending the process. Hold no lock."""
    if is_ending():
        threading.Event().wait()


def begin_ending() -> None:
    """Stop all other threads from now on where they begin or end something of ours."""
    global _ender
    with _lock:
        _ender = threading.get_ident()


def wait_for_work() -> None:
    """Wait until no other thread is in a block of `native_work`. After `begin_ending`."""
    with _lock:
        _work_done.wait_for(lambda: not _working - {_ender})


class _ThisThread(threading.local):
    depth = 0


_this_thread = _ThisThread()


class _NativeWork:
    """Marks a block in which its thread may be inside the native library.

    For work that no engine counts: an engine waits for its own calls (`Lifetime`). A block in
    another is a part of that.
    """

    def __enter__(self) -> None:
        _this_thread.depth += 1
        while _this_thread.depth == 1:
            with _lock:
                if not is_ending():
                    _working.add(threading.get_ident())
                    return
            stop_if_ending()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _this_thread.depth -= 1
        if _this_thread.depth:
            return
        with _lock:
            _working.discard(threading.get_ident())
            if _ender is not None:
                _work_done.notify_all()
        stop_if_ending()


native_work = _NativeWork()

python_in_native_code = native_work
"""Marks a block in which native code of others calls Python, as pydantic does when it validates.

A daemon thread must not be stopped there: Python stops it by unwinding its stack, which ends the
process with "FATAL: exception not rethrown" where Rust or C++ is on it.
"""


def _after_fork_in_child() -> None:
    global _lock, _work_done, _ender
    _lock = threading.RLock()
    _work_done = threading.Condition(_lock)
    _working.clear()
    _ender = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
