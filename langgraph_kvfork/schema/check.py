"""Whether an answer is whole, and whether it matches its schema."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from langgraph_kvfork.checks import is_unicode
from langgraph_kvfork.errors import InvalidRequestError

Check = Callable[[object], str | None]
"""A function of a JSON value that returns why it does not match; None: it matches."""

_DRAFTS = (
    "https://json-schema.org/draft/2020-12/schema",
    "http://json-schema.org/draft-07/schema#",
    "http://json-schema.org/draft-04/schema#",
)
"""The newest first. A schema that names no draft is read as the first one that it is valid in."""


def parse_json(text: str) -> Any:
    """Return the value of JSON text. Nothing is repaired.

    Raises:
        ValueError: It is not JSON, or not all of it; or a number is too large for a float.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("it is nested too deep to be read") from error


def schema_check(schema: dict[str, Any] | bool, where: str = "schema") -> Check:
    """Return a function that checks values against a schema, their formats included.

    Args:
        schema: JSON schema, of the draft that its `$schema` names, or else of any.
        where: Its name, for the message.

    Raises:
        InvalidRequestError: It is no JSON schema, or refers to what is not in it.
    """
    try:
        return _check_of(json.dumps(schema))
    except ValueError as error:
        path = "".join(f"/{part}" for part in getattr(error, "instance_path", ()))
        place = f" at #{path}" if path else ""
        raise InvalidRequestError(
            f"{where} is no JSON schema: {_first_line(error)}{place}; change that part of it."
        ) from error


@lru_cache(maxsize=256)
def _check_of(schema_json: str) -> Check:
    validator = _validator(json.loads(schema_json))

    def check(value: object) -> str | None:
        if not _is_json(value):
            return "it has a number or a text that JSON cannot hold"
        try:
            error = next(validator.iter_errors(value), None)
        except (ValueError, OverflowError) as failed:
            return f"it cannot be checked: {_first_line(failed)}"
        if error is None:
            return None
        path = "".join(f"[{part!r}]" for part in error.instance_path)
        return f"{_first_line(error)} at {path}" if path else _first_line(error)

    return check


def _validator(schema: Any) -> Any:
    import jsonschema_rs  # here, since it is large, and only answers with a schema need it

    if isinstance(schema, dict) and "$schema" not in schema:
        drafts = ({**schema, "$schema": draft} for draft in _DRAFTS)
        schema = next(filter(jsonschema_rs.meta.is_valid, drafts), schema)
    return jsonschema_rs.validator_for(schema, validate_formats=True, retriever=_refuse_elsewhere)


def _refuse_elsewhere(uri: str) -> Any:
    raise ValueError(f"{uri} is not in the schema, and nothing is fetched")


def _is_json(value: object) -> bool:
    """Return whether numbers are finite and texts whole characters; other kinds do not come up."""
    if isinstance(value, dict):
        return all(is_unicode(name) and _is_json(part) for name, part in value.items())
    if isinstance(value, list):
        return all(map(_is_json, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return is_unicode(value) if isinstance(value, str) else True


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {digits[:40]} is too large")
    return number


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:300]
