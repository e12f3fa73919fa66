"""Argument checks that end in a sentence."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping

from langgraph_kvfork.errors import InvalidRequestError

_LONG = 120
"""Characters of a value that a message shows."""


def require(condition: bool, name: str, value: object, remedy: str) -> None:
    """Refuse a value.

    Raises:
        InvalidRequestError: `condition` is false; the message names argument, value and remedy.
    """
    if not condition:
        raise InvalidRequestError(f"{name}={shown(value)} is not possible: {remedy}.")


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
    is_valid = is_number(value) and math.isfinite(value) and low <= value <= high  # type: ignore[arg-type, operator]
    require(is_valid, name, value, remedy)


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


def is_number(value: object) -> bool:
    """Return whether it is a number that a float can hold; NaN and infinity are."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def is_c_text(value: object) -> bool:
    """Return whether it is text that C can hold: without NULs and halves of characters."""
    return isinstance(value, str) and "\0" not in value and is_unicode(value)


def is_unicode(text: str) -> bool:
    """Return whether it is text that can be encoded: without lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_json_object(value: object) -> bool:
    """Return whether it is a dict with names for keys that JSON can hold."""
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        return False
    if not value:
        return True
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def shown(value: object) -> str:
    """Return a value as a message shows it: on one line, and not too long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; a nest without end
        return f"<{type(value).__name__}>"
    return text if len(text) <= _LONG else f"{text[:_LONG]}..."


def refuse_unknown(
    names: Iterable[str],
    known: Iterable[str],
    owner: str,
    elsewhere: Mapping[str, str],
) -> None:
    """Refuse argument names that nobody would read.

    Args:
        names: The names that were given.
        known: The names that there are.
        owner: What has them, for the message.
        elsewhere: Names that others have, and what to say to somebody who gives one.

    Raises:
        InvalidRequestError: One of `names` is not in `known`; the message says what it is here, if
            it is in `elsewhere`, or offers the closest ones.
    """
    known = known if isinstance(known, frozenset) else frozenset(known)
    for name in names:
        if name not in known:
            hint = _hint(name, known, elsewhere)
            raise InvalidRequestError(f"{owner} has no argument {name!r}{hint}")


def _hint(name: str, known: Iterable[str], elsewhere: Mapping[str, str]) -> str:
    if name in elsewhere:
        return f": {elsewhere[name]}."
    close = difflib.get_close_matches(name, known, n=3)
    close = close or sorted(k for k in known if k.startswith(name))[:3]
    return f". Did you mean {' or '.join(close)}?" if close else "."
