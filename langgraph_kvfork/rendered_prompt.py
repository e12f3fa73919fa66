"""What a chat template makes of messages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """Messages after the chat template.

    Attributes:
        text: The prompt; tokenize it with special tokens added and parsed (`Engine.tokenize` does).
        answer_format: What the answer has to look like and how to read it, for `Request` and
            `Engine.answer_reader`. Opaque: made by the native library, and for it.
        grammar: GBNF in `answer_format`, for people to read; None: none.
        stop: Strings that end the answer.
    """

    text: str
    answer_format: str
    grammar: str | None = None
    stop: tuple[str, ...] = ()
