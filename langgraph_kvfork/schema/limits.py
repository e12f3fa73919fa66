"""What of JSON schema llama.cpp would not refuse by itself, but choke on."""

from __future__ import annotations

from collections.abc import Iterator

from langgraph_kvfork.checks import is_json_object, is_number, require
from langgraph_kvfork.errors import InvalidRequestError
from langgraph_kvfork.schema.check import schema_check

_BOUNDS = (
    ("minItems", "maxItems"),
    ("minLength", "maxLength"),
    ("minimum", "maximum"),
    ("exclusiveMinimum", "exclusiveMaximum"),
)
_VALUES = {"const", "default", "enum", "examples"}
"""Keywords with values in them, not schemas."""
_DEEP = 128
"""Levels of JSON, two for each level of objects in a schema."""
_WIDE = 100_000
"""Parts on one level: one that is the same at many places counts at each of them."""


def check_schema(schema: object, where: str) -> None:
    """Refuse a JSON schema that no answer can match, or that no JSON can hold.

    Args:
        schema: The schema.
        where: Its name, for the message.

    Raises:
        InvalidRequestError: It is such a one.
    """
    check_depth(schema, where)
    require(is_json_object(schema), where, schema, "give a dict of values that JSON can hold")
    assert isinstance(schema, dict)
    schema_check(schema, where)
    for path, part in _parts(schema, "#"):
        for low, high in _BOUNDS:
            least, most = part.get(low), part.get(high)
            if is_number(least) and is_number(most) and least > most:  # type: ignore[operator]
                raise InvalidRequestError(
                    f"{where} has {low}={least!r} and {high}={most!r} at {path}, which nothing can "
                    "match: change one of them."
                )


def check_depth(value: object, where: str) -> None:
    """Refuse what is nested so deep that whoever reads it would run out of stack or memory.

    Raises:
        InvalidRequestError: It is such a one.
    """
    level: list[object] = [value]
    for _ in range(_DEEP):
        below: list[object] = []
        for part in level:
            if isinstance(part, dict):
                below += part.values()
            elif isinstance(part, (list, tuple)):
                below += part
        level = [part for part in below if isinstance(part, (dict, list, tuple))]
        if not level:
            return
        if len(level) > _WIDE:
            break
    raise InvalidRequestError(
        f"{where} is not possible: it is nested more than {_DEEP} levels of JSON deep, or has more "
        f"than {_WIDE:,} parts on one; make it flatter, or give parts of it as $defs."
    )


def _parts(value: object, path: str) -> Iterator[tuple[str, dict[str, object]]]:
    if isinstance(value, dict):
        yield path, value
        for name, part in value.items():
            if name not in _VALUES:
                yield from _parts(part, f"{path}/{name}")
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from _parts(part, f"{path}/{i}")
