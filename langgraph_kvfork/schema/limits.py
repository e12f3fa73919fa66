"""Schemas that llama.cpp would not refuse by itself, but fail on later."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from langgraph_kvfork.checks import is_json_object, is_number, require
from langgraph_kvfork.errors import InvalidRequestError
from langgraph_kvfork.schema.check import schema_check
from langgraph_kvfork.schema.references import References

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
_WIDE = 20_000
"""Parts on one level: one that is the same at many places counts at each of them."""
_MAPS = {"properties", "patternProperties", "dependentSchemas"}
"""Keywords with schemas by name."""
_IN_PLACE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else")
_LINKED = 300
"""Levels of schemas; a reference leads one level down. jsonschema-rs calls itself at each, and
takes some 3 KiB of stack for it: without a limit, it would end the process."""
_FOLLOW = f"its parts refer to one another, one after the other, more than {_LINKED} levels deep"
_MULTIPLIED = 10_000
"""Parts that one value is checked against."""
_MULTIPLY = f"a value would be checked against more than {_MULTIPLIED:,} parts, many of them twice"


def check_schema(schema: object, where: str) -> None:
    """Refuse a JSON schema that no answer can match, or that no JSON can hold.

    Args:
        schema: The schema.
        where: Its name, for the message.

    Raises:
        InvalidRequestError: Nothing can match it, or JSON cannot hold it.
    """
    check_depth(schema, where)
    require(is_json_object(schema), where, schema, "pass a dict of values that JSON can hold")
    assert isinstance(schema, dict)
    _check_links(schema, where)
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
    """Refuse a schema that is nested so deep that a reader would run out of stack or memory.

    Raises:
        InvalidRequestError: It is nested so deep.
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
        f"than {_WIDE:,} parts on one; make it flatter, or move parts of it into $defs."
    )


def _check_links(schema: dict[str, object], where: str) -> None:
    """Refuse parts that refer to one another in too long a chain, or multiply; circles do neither.

    What is multiplied is what one value is checked against: both parts of an `allOf`, not those for
    different properties.
    """
    references = References(schema)
    heights: dict[int, int] = {}  # of the parts that are left behind, with all that is below
    sizes: dict[int, int] = {}  # and how many parts a value of theirs is checked against
    path: list[tuple[Any, Iterator[object]]] = [(schema, iter(_below(schema, references)))]
    on_path = {id(schema)}
    while path:
        part, below = path[-1]
        found = next(below, None)
        if found is None:
            on_path.discard(id(part))
            under = _below(part, references)
            heights[id(part)] = 1 + max((heights.get(id(each), 0) for each in under), default=0)
            same = _of_one_value(part, references)
            sizes[id(part)] = 1 + sum(sizes.get(id(each), 0) for each in same)
            _require(sizes[id(part)] <= _MULTIPLIED, where, _MULTIPLY)
            path.pop()
        elif id(found) not in heights and id(found) not in on_path:
            on_path.add(id(found))
            path.append((found, iter(_below(found, references))))
        _require(len(path) + heights.get(id(found), 0) <= _LINKED, where, _FOLLOW)


def _require(condition: bool, where: str, reason: str) -> None:
    if not condition:
        raise InvalidRequestError(f"{where} is not possible: {reason}; make it flatter.")


def _below(part: Any, references: References) -> list[object]:
    """Return the schemas in a part, and those that its references lead to."""
    below: list[object] = []
    if isinstance(part, list):
        below += part
    else:
        for name, each in part.items():
            if name in _MAPS and isinstance(each, dict):
                below += each.values()
            elif name not in _VALUES and name not in ("$defs", "definitions"):
                below.append(each)  # definitions are met where something refers to them
        below += _referred(part, references)
    return [each for each in below if isinstance(each, (dict, list))]


def _of_one_value(part: Any, references: References) -> list[object]:
    """Return the schemas that a value is checked against, too, that is checked against this."""
    if isinstance(part, list):
        return part
    same = [part[name] for name in _IN_PLACE if name in part]
    dependent = part.get("dependentSchemas")
    if isinstance(dependent, dict):
        same += dependent.values()
    return [*same, *_referred(part, references)]


def _referred(part: dict[str, Any], references: References) -> list[object]:
    named = (part.get(keyword) for keyword in ("$ref", "$dynamicRef"))
    return [references.find(part, name) for name in named if isinstance(name, str)]


def _parts(value: object, path: str) -> Iterator[tuple[str, dict[str, object]]]:
    if isinstance(value, dict):
        yield path, value
        for name, part in value.items():
            if name not in _VALUES:
                yield from _parts(part, f"{path}/{name}")
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from _parts(part, f"{path}/{i}")
