"""How a chat model refuses arguments: pydantic finds what is wrong, the words are ours.

A model is validated in two ways. Its constructor and `model_validate` raise an error that is an
`InvalidRequestError`, LangChain's, and pydantic's `ValidationError`. As a field of another pydantic
model, it is validated within that one, which raises its own `ValidationError` and shows the same
sentences.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from langgraph_kvfork.arguments import in_sentences
from langgraph_kvfork.chat.errors import InvalidRequestError

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
            return " ".join(found["msg"] for found in self.errors(include_url=False))


def in_our_words(error: ValidationError, model: type[BaseModel], values: object) -> ValidationError:
    """Return pydantic's error with a sentence for each argument that is wrong.

    Args:
        error: What pydantic raised while it validated `values`.
        model: The chat model's class.
        values: The arguments.
    """
    return ValidationError.from_exception_data(error.title, _details(error, model, values))


def refusal(error: ValidationError, model: type[BaseModel]) -> Exception:
    """Return pydantic's error as one of this package's, which is still pydantic's.

    Args:
        error: What the validation of a model raised.
        model: The chat model's class.
    """
    details = _details(error, model, None)
    if _Pydantics is None:
        return InvalidRequestError(" ".join(d["type"].message() for d in details))
    return _InvalidArgumentError.from_exception_data(error.title, details)


@contextmanager
def refusals(model: type[BaseModel]) -> Iterator[None]:
    """Raise the block's errors of pydantic as `refusal` returns them."""
    try:
        yield
    except ValidationError as error:
        raise refusal(error, model) from None


def _details(error: ValidationError, model: type[BaseModel], values: object) -> list[Any]:
    return [
        InitErrorDetails(
            # as a variable, since a sentence may have braces
            type=PydanticCustomError(found["type"], "{sentence}", {"sentence": sentence}),
            loc=found["loc"],
            input=found["input"],
        )
        for found, sentence in in_sentences(error, model, values)
    ]
