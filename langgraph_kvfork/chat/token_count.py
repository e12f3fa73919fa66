"""How many tokens messages are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage

from langgraph_kvfork.convert.messages import to_openai
from langgraph_kvfork.engine.engine import Engine
from langgraph_kvfork.errors import InvalidRequestError

_FRAME = 8
"""Tokens that a template puts around a message, where it cannot be asked."""


def count_tokens(engine: Engine, messages: Sequence[BaseMessage], **options: Any) -> int:
    """Return the length of the prompt that messages make, in tokens.

    An excerpt of a conversation, as those count who want to trim one, may be none that the chat
    template renders, for instance because it begins with an answer. It is estimated then: what each
    message says, and what the template puts around one.

    Args:
        engine: Whose tokenizer and chat template to use.
        messages: Of any count; of none, the number is 0.
        **options: More of what `Engine.render` takes.

    Raises:
        InvalidRequestError: A message is not text of a chat.
    """
    if not messages:
        return 0
    converted = to_openai(messages)
    try:
        return _rendered(engine, converted, options)
    except InvalidRequestError:
        said = sum(len(_tokens(engine, _spelled_out(message))) for message in converted)
        first, further = _frames(engine)
        return said + first + further * (len(converted) - 1)


def _rendered(
    engine: Engine, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
) -> int:
    return len(engine.tokenize(engine.render(messages, **options)))


def _frames(engine: Engine) -> tuple[int, int]:
    """Return how many tokens the template puts around a first and around each further message."""
    question, answer = ({"role": role, "content": "x"} for role in ("user", "assistant"))
    try:
        one = _rendered(engine, [question], {})
        three = _rendered(engine, [question, answer, question], {})
    except InvalidRequestError:
        return _FRAME, _FRAME
    said = len(_tokens(engine, "x"))
    return one - said, math.ceil((three - one) / 2) - said


def _spelled_out(message: Mapping[str, Any]) -> str:
    parts = [message.get("reasoning_content"), message["content"]]
    for call in message.get("tool_calls", ()):
        parts += [call["function"]["name"], call["function"]["arguments"]]
    return "\n".join(part for part in parts if part)


def _tokens(engine: Engine, text: str) -> list[int]:
    return engine.tokenize(text, add_special=False, parse_special=False)
