"""What the node types have in common."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from langchain_core.runnables import Runnable, RunnableConfig

from langgraph_kvfork.branches.request import Request
from langgraph_kvfork.checks import is_c_text, refuse_unknown, require
from langgraph_kvfork.errors import InvalidRequestError
from langgraph_kvfork.hooks.task import unknown_key

_Class = TypeVar("_Class", bound=type)

_OF_THE_MODEL = {
    field.name: f"it is the model's, llm.bind({field.name}=...)"
    for field in fields(Request)
    if field.name != "answer_format"  # rendering finds that out
}


def refusing_unknown_arguments(cls: _Class) -> _Class:
    """Let a class refuse unknown arguments as `ChatKVFork` does: with what may be meant."""
    construct = cls.__init__  # type: ignore[misc]
    known = frozenset(inspect.signature(construct).parameters) - {"self"}

    @functools.wraps(construct)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        refuse_unknown(kwargs, known, cls.__name__, _OF_THE_MODEL)
        construct(self, *args, **kwargs)

    cls.__init__ = checked  # type: ignore[misc]
    return cls


def check_key(name: str, key: object) -> None:
    """Refuse a value that cannot be a key of a graph's state.

    Raises:
        InvalidRequestError: `key` is no text, or empty.
    """
    require(is_c_text(key) and bool(key), name, key, "pass the name of a key of the graph's state")


def state_value(state: Any, key: str, what: str) -> Any:
    """Return a value of a graph's state, be that a dict, a dataclass or a pydantic model.

    Args:
        state: The state.
        key: The value's key.
        what: What it is: "messages" or "branches".

    Raises:
        InvalidRequestError: The state has no such key.
    """
    if isinstance(state, Mapping):
        if key in state:
            return state[key]
        known = ", ".join(map(str, state)) or "none"
    else:
        if hasattr(state, key):
            return getattr(state, key)
        known = ", ".join(vars(state)) if hasattr(state, "__dict__") else "none"
    argument = "messages_key" if what == "messages" else what
    raise InvalidRequestError(
        f"The graph's state has no key {key!r} yet: put the {what} there, or pass the key that has "
        f'them as {argument}="...". Keys that it has: {known}.'
    )


def check_written(config: RunnableConfig, node: Runnable[Any, Any], key: str) -> None:
    """Refuse a node's output key that the graph's state does not have, before anything is computed.

    LangGraph would drop the answers and say nothing.

    Args:
        config: The node's.
        node: The node.
        key: Its output key.

    Raises:
        InvalidRequestError: The state has no such key.
    """
    known = unknown_key(config, node, key)
    if known is not None:
        raise InvalidRequestError(
            f"output_key={key!r} is not possible: the graph's state has no such key, and LangGraph "
            f"would drop what {type(node).__name__} writes to it. Add it to the state's schema, or "
            f"pass a key that it has: {', '.join(known)}."
        )
