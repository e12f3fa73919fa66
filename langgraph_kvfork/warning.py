"""Warnings of something that a call does, which end no call."""

from __future__ import annotations

import logging
import warnings

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
