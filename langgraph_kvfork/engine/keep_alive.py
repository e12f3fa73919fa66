"""How long an engine that nobody uses stays in memory."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator

from langgraph_kvfork.checks import is_number, require

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?P<sign>-?)(?P<parts>(?:\d+(?:\.\d+)?(?:ms|s|m|h))+)")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def keep_alive_seconds(keep_alive: object) -> float | None:
    """Return a `keep_alive` in seconds; None: for ever.

    It is what Ollama takes: seconds, as a number or as text, or a duration such as "90s", "5m" or
    "1h30m"; 0: not at all; a negative one: for ever.

    Raises:
        InvalidRequestError: It is no such thing.
    """
    seconds = _seconds(keep_alive)
    remedy = 'pass seconds, a duration such as "5m" or "1h30m", 0 for at once, or -1 for ever'
    require(seconds is not None and not math.isnan(seconds), "keep_alive", keep_alive, remedy)
    assert seconds is not None
    return seconds if 0 <= seconds <= threading.TIMEOUT_MAX else None


def _is_possible(keep_alive: float | str) -> float | str:
    keep_alive_seconds(keep_alive)
    return keep_alive


KeepAlive = Annotated[float | str, AfterValidator(_is_possible)]
"""What `keep_alive_seconds` takes."""


def _seconds(keep_alive: object) -> float | None:
    if is_number(keep_alive):
        return float(keep_alive)  # type: ignore[arg-type]
    if not isinstance(keep_alive, str):
        return None
    if _NUMBER.fullmatch(keep_alive):
        return float(keep_alive)
    duration = _DURATION.fullmatch(keep_alive)
    if duration is None:
        return None
    total = sum(float(n) * _SECONDS[unit] for n, unit in _PART.findall(duration["parts"]))
    return -1.0 if duration["sign"] else total


class IdleTimer:
    """Calls a function once nobody has used something for some time.

    Args:
        expire: Called in a thread of its own; it looks itself whether nobody uses the thing, and
            returns whether it is done. If not, it is called again a second later.
    """

    def __init__(self, expire: Callable[[], bool]) -> None:
        self._expire = expire
        self._lock = threading.RLock()
        self._timer: threading.Timer | None = None
        self._deadline = math.inf

    def start(self, seconds: float | None) -> None:
        """Start to count, anew if it has begun; None: do not count."""
        with self._lock:
            self._deadline = math.inf if seconds is None else time.monotonic() + seconds
            # one timer is enough, if it wakes up early enough: it looks at the deadline then
            if seconds is None or (self._timer is not None and self._timer_due <= self._deadline):
                return
            self.stop_timer()
            self._start_timer(seconds)

    def stop_timer(self) -> None:
        """Do not call the function any more."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _start_timer(self, seconds: float) -> None:
        self._timer_due = time.monotonic() + seconds
        self._timer = threading.Timer(seconds, self._wake)
        self._timer.name = "kvfork keep-alive"
        self._timer.daemon = True
        self._timer.start()

    def _wake(self) -> None:
        with self._lock:
            if self._timer is not threading.current_thread():
                return
            self._timer = None
            left = self._deadline - time.monotonic()
            if left == math.inf:
                return
            if left > 0:
                self._start_timer(left)
                return
        if not self._expire():
            with self._lock:
                if self._timer is None:
                    self._start_timer(1.0)
