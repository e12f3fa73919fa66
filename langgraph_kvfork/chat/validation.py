"""What a chat model's constructor refuses, and what it has found good before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from langgraph_kvfork.chat.errors import InvalidRequestError
from langgraph_kvfork.checks import shown

_valid: set[tuple[Any, ...]] = set()
"""Arguments of models whose values were all in their ranges."""

if TYPE_CHECKING:
    _Pydantics = ValidationError
else:
    try:
        _Pydantics = type("_Pydantics", (ValidationError,), {})
    except TypeError:  # older releases of pydantic let nobody derive from it
        _Pydantics = None

if _Pydantics is not None:

    class _InvalidArgumentError(InvalidRequestError, _Pydantics):
        """An `InvalidRequestError` that is pydantic's `ValidationError`, too."""

        def __str__(self) -> str:
            return _sentences(self)


def refusal(error: ValidationError) -> Exception:
    """Return pydantic's error as one of this package's, in sentences, which is still pydantic's."""
    if _Pydantics is None:
        return InvalidRequestError(_sentences(error))
    kept = ("type", "loc", "input", "ctx")
    details: Any = [{k: e[k] for k in kept if k in e} for e in map(dict, error.errors())]
    return _InvalidArgumentError.from_exception_data(error.title, details)


def _sentences(error: ValidationError) -> str:
    return " ".join(_sentence(dict(found)) for found in error.errors(include_url=False))


def _sentence(found: dict[str, Any]) -> str:
    ours = found.get("ctx", {}).get("error")
    if isinstance(ours, Exception):
        return str(ours)
    name = ".".join(map(str, found["loc"]))
    reason = found["msg"][:1].lower() + found["msg"][1:]
    return f"{name}={shown(found['input'])} is not possible: {reason}."


def is_known_good(key: tuple[Any, ...] | None) -> bool:
    """Return whether `remember` was called with a model's key."""
    return key is not None and key in _valid


def remember(key: tuple[Any, ...] | None) -> None:
    """Remember that a model's arguments are good."""
    if key is not None:
        if len(_valid) >= 1024:
            _valid.clear()
        _valid.add(key)


def key_of(model: BaseModel, checked: frozenset[str]) -> tuple[Any, ...] | None:
    """Return all that a model was given to check; None if it cannot be remembered."""
    values = model.__dict__
    given = [(name, values.get(name)) for name in model.model_fields_set & checked]
    # with their types: 1, 1.0 and True are equal
    key = (
        type(model),
        *((n, tuple(v)) if type(v) is list else (n, type(v), v) for n, v in given),
    )
    try:
        hash(key)
    except TypeError:
        return None
    return key
