"""Arguments of a branch for all calls of the model in it: `keep` and `namespace`.

It is a context variable, as the sample of `hooks/sample.py`, and for the same reason: it reaches
the chat model through whatever is wrapped around it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

_arguments: ContextVar[Mapping[str, Any]] = ContextVar("kvfork_branch_arguments", default={})  # noqa: B039 - it is never changed


def branch_arguments() -> Mapping[str, Any]:
    """Return the arguments for this context's calls, by name: of `keep` and `namespace`."""
    return _arguments.get()


@contextlib.contextmanager
def calling_with(arguments: Mapping[str, Any]) -> Iterator[None]:
    """Let calls in this context, and in those copied from it, have arguments.

    Within a branch of a branch, the inner one's come on top.

    Args:
        arguments: By name; those that are left out are as they are.
    """
    if not arguments:
        yield
        return
    token = _arguments.set({**_arguments.get(), **arguments})
    try:
        yield
    finally:
        _arguments.reset(token)
