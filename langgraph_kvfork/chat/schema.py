"""What of JSON schema llama.cpp would not refuse by itself, but choke on."""

from __future__ import annotations

from collections.abc import Iterator

from langgraph_kvfork.checks import is_json_object, is_number, require
from langgraph_kvfork.errors import InvalidRequestError

_BOUNDS = (
    ("minItems", "maxItems"),
    ("minLength", "maxLength"),
    ("minimum", "maximum"),
    ("exclusiveMinimum", "exclusiveMaximum"),
)
_VALUES = {"const", "default", "enum", "examples"}
"""Keywords with values in them, not schemas."""
_DEEP = 64
"""Levels of nesting that a grammar can have."""


def check_schema(schema: object, where: str) -> None:
    """Refuse a JSON schema that no answer can match, or that no JSON can hold.

    Args:
        schema: The schema.
        where: Its name, for the message.

    Raises:
        InvalidRequestError: It is such a one.
    """
    require(is_json_object(schema), where, schema, "give a dict of values that JSON can hold")
    for path, part in _parts(schema, "#", 0):
        for low, high in _BOUNDS:
            least, most = part.get(low), part.get(high)
            if is_number(least) and is_number(most) and least > most:  # type: ignore[operator]
                raise InvalidRequestError(
                    f"{where} has {low}={least!r} and {high}={most!r} at {path}, which nothing can "
                    "match: change one of them."
                )


def _parts(value: object, path: str, depth: int) -> Iterator[tuple[str, dict[str, object]]]:
    if depth > 2 * _DEEP:  # a level of objects is two of JSON
        raise InvalidRequestError(
            f"A schema is nested more than {_DEEP} levels deep, at {path[:80]}...: make it flatter."
        )
    if isinstance(value, dict):
        yield path, value
        for name, part in value.items():
            if name not in _VALUES:
                yield from _parts(part, f"{path}/{name}", depth + 1)
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from _parts(part, f"{path}/{i}", depth + 1)
