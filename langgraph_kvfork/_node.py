"""What the node types have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langgraph_kvfork._checks import is_c_text, require
from langgraph_kvfork.errors import InvalidRequestError


def check_key(name: str, key: object) -> None:
    """Refuse what cannot be a key of a graph's state.

    Raises:
        InvalidRequestError: `key` is no text, or empty.
    """
    require(is_c_text(key) and bool(key), name, key, "give the name of a key of the graph's state")


def state_value(state: Any, key: str) -> Any:
    """Return a value of a graph's state, be that a dict, a dataclass or a pydantic model.

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
    raise InvalidRequestError(
        f"The graph's state has no key {key!r}: put the messages there, or name their key with "
        f"messages_key. Keys that it has: {known}."
    )
