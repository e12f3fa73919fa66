"""Which of several answers to one prompt a call gives, so that its seed is another one.

It is a context variable, which reaches the chat model through whatever is wrapped around it: bound
arguments, retries, fallbacks, sequences, functions, graphs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """One of several answers to one prompt.

    Attributes:
        number: Which, from 0 on.
        count: How many there are; 1: the only one.
    """

    number: int
    count: int


_ONLY = Sample(0, 1)
_sample: ContextVar[Sample] = ContextVar("kvfork_sample", default=_ONLY)


def current_sample() -> Sample:
    """Return which answer this context's calls give."""
    return _sample.get()


@contextlib.contextmanager
def sampling(sample: Sample | None) -> Iterator[None]:
    """Let calls in this context, and in those copied from it, give one of several answers.

    Within a sample, each is another one again: sample 2 of 3 within sample 1 of 4 is 5 of 12.

    Args:
        sample: Which; None: as it is.
    """
    if sample is None:
        yield
        return
    outer = _sample.get()
    number = outer.number * sample.count + sample.number
    token = _sample.set(Sample(number, outer.count * sample.count))
    try:
        yield
    finally:
        _sample.reset(token)
