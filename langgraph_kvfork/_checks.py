"""Argument checks that end in a sentence."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable

from langgraph_kvfork._other_names import OTHER_NAMES
from langgraph_kvfork.errors import InvalidRequestError


def require(condition: bool, name: str, value: object, remedy: str) -> None:
    """Refuse a value.

    Raises:
        InvalidRequestError: `condition` is false; the message names argument, value and remedy.
    """
    if not condition:
        raise InvalidRequestError(f"{name}={value!r} is not possible: {remedy}.")


def check_number(
    name: str,
    value: object,
    remedy: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
) -> None:
    """Refuse what is not a finite number from `low` to `high`.

    Raises:
        InvalidRequestError: It is not.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    require(number and math.isfinite(value) and low <= value <= high, name, value, remedy)  # type: ignore[arg-type, operator]


def check_integer(
    name: str,
    value: object,
    remedy: str,
    *,
    low: int = -(2**31),
    high: int = 2**31 - 1,
) -> None:
    """Refuse what is not a whole number from `low` to `high`; by default what a C int holds.

    Raises:
        InvalidRequestError: It is not.
    """
    integer = isinstance(value, int) and not isinstance(value, bool)
    require(integer and low <= value <= high, name, value, remedy)  # type: ignore[operator]


def is_c_text(value: object) -> bool:
    """Return whether it is text that C can hold: without NUL characters."""
    return isinstance(value, str) and "\0" not in value


def is_json_object(value: object) -> bool:
    """Return whether it is a dict with names for keys that JSON can hold."""
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        return False
    if not value:
        return True
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def refuse_unknown(names: Iterable[str], known: Iterable[str], owner: str) -> None:
    """Refuse argument names that nobody would read.

    Raises:
        InvalidRequestError: One of `names` is not in `known`; the message says what it is here, if
            it is another model's, or offers the closest ones.
    """
    known = known if isinstance(known, frozenset) else frozenset(known)
    for name in names:
        if name not in known:
            raise InvalidRequestError(f"{owner} has no argument {name!r}{_hint(name, known)}")


def _hint(name: str, known: Iterable[str]) -> str:
    if name in OTHER_NAMES:
        return f": {OTHER_NAMES[name]}."
    close = difflib.get_close_matches(name, known, n=3)
    return f". Did you mean {' or '.join(close)}?" if close else "."
