"""Messages as callers give them: text, one message, or a list in any form that LangChain takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from langchain_core.messages import BaseMessage, convert_to_messages

from langgraph_kvfork.errors import InvalidRequestError

Messages: TypeAlias = str | BaseMessage | Sequence[Any]
"""Text of a human message, a message, or messages in any form that LangChain takes."""


def is_messages(value: object) -> bool:
    """Return whether it is text or messages, and not empty."""
    if isinstance(value, BaseMessage):
        return True
    return isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)) and bool(value)


def to_messages(name: str, value: Messages) -> list[BaseMessage]:
    """Return messages in LangChain's form.

    Args:
        name: Where they are from, for the message.
        value: The messages; text is a human's.

    Raises:
        InvalidRequestError: `value` is neither text nor messages.
    """
    try:
        messages: Any = [value] if _is_one_message(value) else value
        return convert_to_messages(messages)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise InvalidRequestError(
            f"{name}={value!r} is not possible: pass text, or messages as LangChain takes them. "
            f"({error})"
        ) from error


def _is_one_message(value: object) -> bool:
    # a tuple of texts is LangChain's ("human", "text")
    return isinstance(value, (str, BaseMessage)) or (
        isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, str) for v in value)
    )
