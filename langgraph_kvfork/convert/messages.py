"""LangChain's messages in the form that chat templates are written for: OpenAI's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from langgraph_kvfork.checks import is_json_object, require
from langgraph_kvfork.convert.content import calls_in_content, text_of_content
from langgraph_kvfork.errors import InvalidRequestError


def to_openai(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Turn messages into the dicts that `Engine.render` takes.

    Blocks of text are joined: those of an answer as they are, so that it reads as it was generated;
    all others with a newline in between, as OpenAI's API does.

    Raises:
        InvalidRequestError: There is no message, or one is not text of a chat.
    """
    if not messages:
        raise InvalidRequestError("messages=[] is not possible: pass at least one message.")
    return [_convert(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _convert(message: BaseMessage, where: str) -> dict[str, Any]:
    if isinstance(message, SystemMessage):
        return _named(message, {"role": "system", "content": text_of_content(message, where, "\n")})
    if isinstance(message, HumanMessage):
        return _named(message, {"role": "user", "content": text_of_content(message, where, "\n")})
    if isinstance(message, AIMessage):
        return _convert_answer(message, where)
    if isinstance(message, ToolMessage):
        converted = {
            "role": "tool",
            "content": text_of_content(message, where, "\n"),
            "tool_call_id": message.tool_call_id,
        }
        return _named(message, converted)
    if isinstance(message, ChatMessage):
        role = message.role
        require(bool(role.strip()), f"{where}.role", role, 'pass a role such as "user"')
        return _named(
            message, {"role": message.role, "content": text_of_content(message, where, "\n")}
        )
    raise InvalidRequestError(
        f"{where} is a {type(message).__name__}, which no chat template knows: pass a "
        "SystemMessage, HumanMessage, AIMessage, ToolMessage or ChatMessage."
    )


# not for answers: graphs put a node's name there, and the model did not write it
def _named(message: BaseMessage, converted: dict[str, Any]) -> dict[str, Any]:
    return {**converted, "name": message.name} if message.name else converted


def _convert_answer(message: AIMessage, where: str) -> dict[str, Any]:
    if message.additional_kwargs.get("function_call") and not message.tool_calls:
        raise InvalidRequestError(
            f'{where}.additional_kwargs["function_call"] is an old form of a tool call, which '
            "no chat template knows: pass it as tool_calls, and its result as a ToolMessage."
        )
    said = text_of_content(message, where, "")
    refusal = message.additional_kwargs.get("refusal")  # where OpenAI's models have it
    if not said and isinstance(refusal, str):
        said = refusal
    converted: dict[str, Any] = {"role": "assistant", "content": said}
    calls = [
        {
            "type": "function",
            "id": call["id"] or "",
            "function": {
                "name": call["name"],
                "arguments": _json(call["args"], f"{where}.tool_calls[{i}].args"),
            },
        }
        for i, call in enumerate([*message.tool_calls, *calls_in_content(message)])
    ]
    # a call that nobody could parse is a part of the conversation all the same
    calls += [
        {
            "type": "function",
            "id": call["id"] or "",
            "function": {"name": call["name"] or "", "arguments": _quoted(call["args"] or "")},
        }
        for call in message.invalid_tool_calls
    ]
    if calls:
        converted["tool_calls"] = calls
    reasoning = message.additional_kwargs.get("reasoning_content")
    if reasoning:
        name = f'{where}.additional_kwargs["reasoning_content"]'
        require(isinstance(reasoning, str), name, reasoning, "pass a string")
        converted["reasoning_content"] = reasoning
    return converted


def _json(arguments: object, where: str) -> str:
    require(is_json_object(arguments), where, arguments, "pass a dict of values that JSON can hold")
    return json.dumps(arguments, ensure_ascii=False)


def _quoted(arguments: str) -> str:
    """Return arguments that no template could read as a JSON string, which all can."""
    try:
        json.loads(arguments)
    except ValueError:
        return json.dumps(arguments, ensure_ascii=False)
    return arguments
