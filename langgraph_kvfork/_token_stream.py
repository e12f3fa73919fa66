"""Handing the text of a model's answer to whoever called for it, while it is generated."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TypeAlias

Listener: TypeAlias = Callable[[str], None]

_current: ContextVar[Listener | None] = ContextVar("kvfork_token_listener", default=None)


def token_listener() -> Listener:
    """Return what takes the text of this context's answers, piece by piece."""
    return _current.get() or _ignore


@contextlib.contextmanager
def told_tokens(listener: Listener | None) -> Iterator[None]:
    """Let `listener` hear the answers of this context, and of those copied from it.

    A callback of LangChain's could not: for one of a public class, a model that is invoked does not
    stream, and to stream it would change what it returns.
    """
    token = _current.set(listener)
    try:
        yield
    finally:
        _current.reset(token)


def _ignore(text: str) -> None:
    pass
