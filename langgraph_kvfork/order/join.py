"""Messages from several hands become one prompt, in the form that every chat template takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
)


def join(*parts: Iterable[BaseMessage]) -> list[BaseMessage]:
    """Return one prompt of several lists of messages.

    Many chat templates refuse two messages of one role in a row, and a system message anywhere but
    at the beginning. So a message continues the one before it if both have one role, and a system
    message further behind becomes a human's. No text is lost or moved: what comes first in the
    parts comes first in the prompt, and is shared. Where nothing is to be joined, the messages are
    the ones that were given.

    A part's system messages at the prompt's beginning are one; those of a later part are the
    human's, since some templates refuse prompts without a human's message.

    Args:
        *parts: Messages, in the order of the prompt: the context, and what a branch adds to it.
    """
    joined: list[BaseMessage] = []
    only_system = True
    for part in parts:
        may_begin = not joined
        for message in part:
            if _role(message) == "system" and not (may_begin and only_system):
                message = HumanMessage(message.content)
            role = _role(message)
            only_system = only_system and role == "system"
            if joined and role is not None and role == _role(joined[-1]):
                joined[-1] = continued(joined[-1], message.content)
            else:
                joined.append(message)
    return joined


def continued(message: BaseMessage, content: str | list[Any]) -> BaseMessage:
    """Return a message with more content behind its own: text in a paragraph, blocks as blocks.

    Args:
        message: The message; it is not changed.
        content: Text, or blocks as LangChain has them.
    """
    own = message.content
    if not own or not content:
        return message.model_copy(update={"content": own or content})
    if isinstance(own, str) and isinstance(content, str):
        return message.model_copy(update={"content": f"{own}\n\n{content}"})
    first, *others = _blocks(content)
    # a prompt has a line break between blocks, but not between those of an answer
    if isinstance(message, AIMessage) and first.get("type") == "text":
        first = {**first, "text": f"\n\n{first['text']}"}
    return message.model_copy(update={"content": [*_blocks(own), first, *others]})


def _role(message: BaseMessage) -> str | None:
    """Return the role whose messages can be joined; None: it stands for itself."""
    if isinstance(message, HumanMessage):
        return "user"
    if isinstance(message, SystemMessage):
        return "system"
    if isinstance(message, AIMessage):
        return None if message.tool_calls or message.invalid_tool_calls else "assistant"
    if isinstance(message, ChatMessage) and message.role in ("user", "system", "assistant"):
        return message.role
    return None


def _blocks(content: str | list[Any]) -> list[dict[str, Any]]:
    given = [content] if isinstance(content, str) else content
    return [{"type": "text", "text": block} if isinstance(block, str) else block for block in given]
