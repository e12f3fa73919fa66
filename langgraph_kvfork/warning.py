"""Warnings of something that a call does, which end no call."""

from __future__ import annotations

import logging
import warnings
from typing import Any

_log = logging.getLogger(__name__)


def warn(message: str, category: type[Warning]) -> None:
    """Warn; where a filter makes the warning an error (`python -W error`), log it instead.

    An error would end a call for something that does not hinder it: an answer that is there
    already would be lost, or the other branches of a fan-out cancelled. And since each thing is
    warned of once, the same call would succeed the next time.

    Args:
        message: Sentences.
        category: One of this package's.
    """
    try:
        warnings.warn(message, category, stacklevel=3)
    except category:
        _log.warning("%s: %s", category.__name__, message)


def is_news(warned: dict[Any, object], *names: object) -> bool:
    """Return whether nobody was warned of any of these things, and remember that somebody was.

    Of several threads, one has the news. Each step is one operation of a dict, and there is no
    lock: a garbage collection inside may end another call, which comes here too.

    Args:
        warned: What was warned of, and a mark of who did it; it is changed.
        names: What is to be warned of. Where callers have several names in common, all give them
            in one order: the first to claim the first name has them all.
    """
    ours = object()
    return all(warned.setdefault(name, ours) is ours for name in names)
