"""What a chat template makes of messages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """Messages after the chat template.

    Attributes:
        text: The prompt; tokenize it with special tokens added and parsed (`Engine.tokenize` does).
        grammar: GBNF that the answer must follow; None: none.
        grammar_lazy: The grammar holds only from a trigger in the text on.
        stop: Strings that end the answer.
    """

    text: str
    grammar: str | None = None
    grammar_lazy: bool = False
    stop: tuple[str, ...] = ()
