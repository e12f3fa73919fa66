"""The text of a message's content, in whatever blocks LangChain or a provider puts it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from langgraph_kvfork.errors import InvalidRequestError

_TEXT = {"text", "output_text", "input_text", "text-plain"}
"""Blocks whose `text` is their content: LangChain's, and the Responses API's."""

_NOT_TAKEN_BACK = {
    # thoughts, which their own provider alone can read
    "reasoning",
    "reasoning_content",
    "thinking",
    "redacted_thinking",
    # calls, which the message also has as `tool_calls`
    "tool_call",
    "tool_call_chunk",
    "invalid_tool_call",
    "tool_use",
    "function_call",
    "custom_tool_call",
    "input_json_delta",
    # what a provider's server did while it answered: no chat template has a place for it, and the
    # answer's text says what came of it
    "server_tool_call",
    "server_tool_call_chunk",
    "server_tool_result",
    "server_tool_use",
    "mcp_tool_use",
    "mcp_tool_result",
    "mcp_call",
    "mcp_list_tools",
    "mcp_approval_request",
    "web_search_call",
    "web_search_tool_result",
    "web_fetch_tool_result",
    "file_search_call",
    "code_interpreter_call",
    "computer_call",
    "code_execution_tool_result",
    "bash_code_execution_tool_result",
    "text_editor_code_execution_tool_result",
    "tool_search_tool_result",
    "image_generation_call",
    "local_shell_call",
    "compaction",
    "container_upload",
    "executable_code",
    "code_execution_result",
    # LangChain's wrapping of blocks that it does not know
    "non_standard",
}
"""Blocks of an answer that no prompt of another model has, in any of LangChain's integrations."""

_MARKS = {"cachePoint", "cache_point", "guard_content"}
"""Blocks that say something to a provider's server, and nothing to a model."""


def text_of_content(message: BaseMessage, where: str, separator: str) -> str:
    """Return a message's text.

    An answer's thoughts, calls and server-side work are left out, as other chat models of LangChain
    leave out those of another provider.

    Args:
        message: The message.
        where: Its name, for the error.
        separator: What comes between two blocks of text.

    Raises:
        InvalidRequestError: A block holds what a model of text cannot take.
    """
    content = message.content
    if isinstance(content, str):
        return content
    is_answer = isinstance(message, AIMessage)
    texts: list[str] = []
    for i, block in enumerate(content):
        text = _text(block, is_answer=is_answer)
        if text is None:
            kind = block.get("type") if isinstance(block, Mapping) else type(block).__name__
            raise InvalidRequestError(
                f"{where}.content[{i}] is a block of type {kind!r}, and this model takes text "
                'only: pass blocks {"type": "text", "text": "..."} or a string.'
            )
        texts += text
    return separator.join(texts)


def calls_in_content(message: AIMessage) -> list[dict[str, Any]]:
    """Return calls that only the blocks of an answer have, as histories that were stored do."""
    if isinstance(message.content, str):
        return []
    known = {call["id"] for call in (*message.tool_calls, *message.invalid_tool_calls)}
    blocks = [block for block in message.content if isinstance(block, Mapping)]
    calls = [call for block in blocks if (call := _call(block))]
    return [call for call in calls if call["id"] not in known]


def _call(block: Mapping[str, Any]) -> dict[str, Any] | None:
    kind, name = block.get("type"), block.get("name")
    arguments = {"tool_use": "input", "tool_call": "args", "function_call": "arguments"}
    if kind not in arguments or not isinstance(name, str):
        return None
    args = block.get(arguments[kind])
    if isinstance(args, str):
        try:
            args = json.loads(args) if args else {}
        except ValueError:
            return None  # a stream's piece, or cut off: it is among the message's invalid calls
    return {"name": name, "args": args, "id": block.get("call_id", block.get("id"))}


def _text(block: Any, *, is_answer: bool) -> list[str] | None:
    """Return a block's texts; None: it is no text."""
    if isinstance(block, str):
        return [block]
    if not isinstance(block, Mapping):
        return None
    kind = block.get("type")
    if kind in _TEXT or (kind is None and set(block) <= {"text", "cachePoint"} and "text" in block):
        return _strings(block.get("text"))
    if is_answer and kind == "refusal":
        return _strings(block.get("refusal"))
    if is_answer and kind in _NOT_TAKEN_BACK:
        return []
    if kind in _MARKS or (kind is None and block and set(block) <= _MARKS):
        return []
    reader = _READERS.get(str(kind))
    return None if reader is None else reader(block)


def _strings(text: object) -> list[str] | None:
    return [text] if isinstance(text, str) else None


def _document(block: Mapping[str, Any]) -> list[str] | None:
    """Return the text of a document as Anthropic has it, after its title and its context."""
    source = block.get("source")
    if not isinstance(source, Mapping):
        return None
    if source.get("type") == "text":
        said = _strings(source.get("data"))
    elif source.get("type") == "content":
        said = _parts(source.get("content"))
    else:
        return None
    before = [block[key] for key in ("title", "context") if isinstance(block.get(key), str)]
    return None if said is None else [*before, *said]


def _search_result(block: Mapping[str, Any]) -> list[str] | None:
    said = _parts(block.get("content"))
    before = [block[key] for key in ("title", "source") if isinstance(block.get(key), str)]
    return None if said is None else [*before, *said]


def _file(block: Mapping[str, Any]) -> list[str] | None:
    """Return the text of a file as LangChain 0.3 has it; others hold bytes or an address."""
    return _strings(block.get("text")) if block.get("source_type") == "text" else None


def _result(block: Mapping[str, Any]) -> list[str] | None:
    return _parts(block.get("content"))


def _parts(content: object) -> list[str] | None:
    """Return the texts of content within a block."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        return None
    texts: list[str] = []
    for part in content:
        said = _text(part, is_answer=False)
        if said is None:
            return None
        texts += said
    return texts


_READERS: dict[str, Callable[[Mapping[str, Any]], list[str] | None]] = {
    "document": _document,
    "search_result": _search_result,
    "file": _file,
    "tool_result": _result,
}
"""Blocks that hold text somewhere else."""
