"""What the branches of a fan-out ask, and whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, Union

from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable

from langgraph_kvfork._checks import require
from langgraph_kvfork._node import refusing_unknown_arguments

Messages: TypeAlias = str | BaseMessage | Sequence[Any]
"""Text of a human's message, a message, or messages in any form that LangChain takes."""

BranchMessages: TypeAlias = Union[Messages, Callable[[Any], Messages]]  # noqa: UP007
"""What a branch adds to the shared messages: these, or what a function of the state returns."""


@refusing_unknown_arguments
@dataclass(frozen=True, slots=True)
class ForkBranch:
    """A branch with a model of its own.

    Example:
        ```python
        ForkBranch("List the dates.", llm.with_structured_output(Dates))
        ForkBranch("Be inventive.", llm.bind(temperature=1.5))
        ```

    Attributes:
        messages: What it adds to the shared messages.
        llm: Who answers; None: the node's `llm`. Arguments are bound to it as everywhere in
            LangChain: `llm.bind(...)`, `llm.bind_tools(...)`, `llm.with_structured_output(...)`.
            Tools stand at the beginning of a prompt, so branches share it if they have the same.
    """

    messages: BranchMessages
    llm: Runnable[Any, Any] | None = None

    def __post_init__(self) -> None:
        require(
            not isinstance(self.messages, Runnable),
            "messages",
            self.messages,
            "give what to ask first, and the model after it: ForkBranch(messages, llm)",
        )
        require(
            callable(self.messages) or is_messages(self.messages),
            "messages",
            self.messages,
            "give text, a list of messages, or a function of the state that returns one of these",
        )
        require(
            self.llm is None or isinstance(self.llm, Runnable),
            "llm",
            self.llm,
            "give a ChatKVFork, or None for the node's",
        )


BranchSpec: TypeAlias = Union[BranchMessages, ForkBranch]  # noqa: UP007
Branches: TypeAlias = Union[Mapping[str, BranchSpec], Sequence[BranchSpec]]  # noqa: UP007
"""Branches by name, or in order; then their names are "0", "1", …"""

BranchSource: TypeAlias = Union[Branches, str, Callable[[Any], Branches]]  # noqa: UP007
"""Branches; or the state's key of them, or a function of the state that returns them."""


def is_messages(value: object) -> bool:
    """Return whether it is text or messages, and not empty."""
    if isinstance(value, BaseMessage):
        return True
    return isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)) and bool(value)
