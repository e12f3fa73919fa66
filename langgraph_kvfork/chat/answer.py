"""A branch's answer, as LangChain's messages.

The engine returns text. A reader of the native library, made for the prompt's template, separates
it into content, thoughts and tool calls, and `Answer` makes a chunk of each piece. Added up, the
chunks are the message that `invoke` returns.

A tool call that was cut off never looks whole: its arguments end with a bracket that closes
nothing, so that LangChain puts it among the message's `invalid_tool_calls`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ContentBlock
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.block_translators import register_translator
from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.utils.json import parse_partial_json

from langgraph_kvfork.branches.events import Done, Event, Logprob, Token, Usage
from langgraph_kvfork.engine.chat_template import RenderedPrompt
from langgraph_kvfork.engine.engine import Engine

PROVIDER = "kvfork"
"""`model_provider` in messages, and `ls_provider` in traces."""

SERVER_PROVIDER = "kvfork-server"
"""`ls_provider` of a chat model on a server, whose messages are OpenAI's."""


class Answer:
    """Turns a branch's events into message chunks.

    Args:
        engine: Whose branch it is.
        rendered: The branch's prompt.
        model_name: For `response_metadata`.
        shared: Whether what was computed is left to others.
        check: Refuses a message that has come to its own end, but is not what was asked for.
    """

    def __init__(
        self,
        engine: Engine,
        rendered: RenderedPrompt,
        model_name: str,
        *,
        shared: bool,
        check: Callable[[BaseMessage], None] | None = None,
    ) -> None:
        self._engine = engine
        self._reader = engine.answer_reader(rendered)
        self._model_name = model_name
        self._shared = shared
        self._check = check
        self._text = ""
        self._content = ""
        self._arguments: list[str] = []
        self._reasoning_tokens = 0
        self._unclear_tokens = 0

    def chunks(self, event: Event) -> Iterator[ChatGenerationChunk]:
        """Return the chunks for an event.

        Usage and metadata are in the last chunk only, so that adding chunks up counts them once. If
        the answer was cut off, or does not have the form that the template's answers have, the
        metadata has all of its text.
        """
        if isinstance(event, Token):
            self._text += event.text
            delta = self._reader.push(event.text) if event.text else {}
            self._count(delta)
            logprobs = {"content": [self._logprobs(event.logprobs)]} if event.logprobs else None
            if delta or logprobs:
                yield self._chunk(delta, logprobs)
        elif isinstance(event, Done):
            delta = self._reader.push("", last=True)
            unread = delta.pop("unread", False)
            if delta:
                yield self._chunk(delta)
            if marks := self._marks_of_cut_calls():
                yield self._chunk({"tool_calls": marks})
            metadata = self._metadata(event)
            if (unread or event.finish_reason == "length") and self._content != self._text:
                metadata["raw_text"] = self._text
            last = self._last_chunk(event.usage, metadata)
            if self._check and event.finish_reason == "stop" and not self._arguments:
                self._check(last.message.model_copy(update={"content": self._content}))
            yield last

    def _chunk(
        self, delta: dict[str, Any], logprobs: dict[str, Any] | None = None
    ) -> ChatGenerationChunk:
        metadata: dict[str, Any] = {"model_provider": PROVIDER}
        if logprobs:
            metadata["logprobs"] = logprobs
        content = delta.get("content", "")
        self._content += content
        reasoning = delta.get("reasoning_content")
        return ChatGenerationChunk(
            message=AIMessageChunk(
                content=content,
                additional_kwargs={"reasoning_content": reasoning} if reasoning else {},
                tool_call_chunks=[self._call_chunk(call) for call in delta.get("tool_calls", ())],
                response_metadata=metadata,
            )
        )

    def _call_chunk(self, call: dict[str, Any]) -> ToolCallChunk:
        index = call["index"]
        if index == len(self._arguments):
            self._arguments.append("")
        self._arguments[index] += call["arguments"]
        return tool_call_chunk(
            name=call.get("name"), args=call["arguments"], id=call.get("id"), index=index
        )

    def _marks_of_cut_calls(self) -> list[dict[str, Any]]:
        """Return the marks that make incomplete arguments invalid.

        LangChain repairs arguments that were cut off, and a tool would run with half of them. A
        bracket that closes nothing puts the call among the message's `invalid_tool_calls`.
        """
        return [
            {"index": index, "arguments": mark}
            for index, arguments in enumerate(self._arguments)
            if (mark := _mark_of_cut(arguments))
        ]

    def _last_chunk(self, usage: Usage, metadata: dict[str, Any]) -> ChatGenerationChunk:
        return ChatGenerationChunk(
            message=AIMessageChunk(
                content="",
                usage_metadata=usage_metadata(
                    usage, shared=self._shared, reasoning_tokens=self._reasoning_tokens
                ),
                response_metadata=metadata,
                chunk_position="last",
            )
        )

    def _count(self, delta: dict[str, Any]) -> None:
        # a token that adds nothing yet belongs to what the next ones add
        self._unclear_tokens += 1
        if delta:
            if delta.keys() == {"reasoning_content"}:
                self._reasoning_tokens += self._unclear_tokens
            self._unclear_tokens = 0

    def _metadata(self, done: Done) -> dict[str, Any]:
        usage = done.usage
        return {
            "model_name": self._model_name,
            "model_provider": PROVIDER,
            "finish_reason": self._finish_reason(done),
            "timings": {
                "wait_ms": usage.wait_ms,
                "prefill_ms": usage.prefill_ms,
                "decode_ms": usage.decode_ms,
                "prefill_tokens_per_second": _rate(usage.prefilled_tokens, usage.prefill_ms),
                # the first token is sampled from what the prefill computed
                "decode_tokens_per_second": _rate(usage.generated_tokens - 1, usage.decode_ms),
            },
            "fork": {
                "branch_id": usage.branch_id,
                "parent_id": usage.parent_id,
                "forked_tokens": usage.forked_tokens,
                **_from_store(usage),
                "prefilled_tokens": usage.prefilled_tokens,
                "cell_bytes": usage.cell_bytes,
                **_losses(usage),
            },
        }

    def _finish_reason(self, done: Done) -> str:
        return (
            "tool_calls" if self._arguments and done.finish_reason == "stop" else done.finish_reason
        )

    def _logprobs(self, logprobs: Sequence[Logprob]) -> dict[str, Any]:
        chosen, *others = map(self._logprob, logprobs)
        return {**chosen, "top_logprobs": others}

    def _logprob(self, logprob: Logprob) -> dict[str, Any]:
        piece = self._engine.token_bytes(logprob.token)
        return {
            "token": piece.decode(errors="replace"),
            "bytes": list(piece),
            "logprob": logprob.logprob,
        }


def usage_metadata(usage: Usage, *, shared: bool, reasoning_tokens: int = 0) -> UsageMetadata:
    """Return LangChain's form of a branch's tokens.

    Args:
        usage: The branch's.
        shared: Whether the prompt tokens that were computed are left in the cache for others.
        reasoning_tokens: How many of the generated ones are thoughts.
    """
    forked = min(usage.forked_tokens + usage.restored_tokens, usage.prompt_tokens)
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.generated_tokens,
        total_tokens=usage.prompt_tokens + usage.generated_tokens,
        input_token_details=InputTokenDetails(
            cache_read=forked,
            cache_creation=usage.prompt_tokens - forked if shared else 0,
        ),
        output_token_details=OutputTokenDetails(reasoning=reasoning_tokens),
    )


def _from_store(usage: Usage) -> dict[str, float]:
    """Return what came from the store; nothing if nothing did."""
    if not usage.restored_tokens:
        return {}
    return {"restored_tokens": usage.restored_tokens, "restore_ms": usage.restore_ms}


def _losses(usage: Usage) -> dict[str, int]:
    """Return what a branch lost that had to give up its cells; nothing for others."""
    if not usage.preemptions:
        return {}
    return {"preemptions": usage.preemptions, "recomputed_tokens": usage.recomputed_tokens}


def _rate(tokens: int, milliseconds: float) -> float | None:
    return 1000.0 * tokens / milliseconds if tokens > 0 and milliseconds > 0 else None


def _mark_of_cut(arguments: str) -> str | None:
    """Return what to append to arguments so that nobody can repair them; None if they are whole."""
    try:
        json.loads(arguments)
    except ValueError:
        # in an object or in an array; between values, in a string, after its backslash
        marks = ("]", '"]', '\\"]', "}", '"}', '\\"}')
        return next(mark for mark in marks if not _is_repairable(arguments + mark))
    return None


def _is_repairable(arguments: str) -> bool:
    try:
        return isinstance(parse_partial_json(arguments), dict)
    except ValueError:
        return False


def _chunk_blocks(message: AIMessageChunk) -> list[ContentBlock]:
    """Return a chunk's content blocks, with indices that tell thoughts, text and calls apart."""
    blocks: list[Any] = []
    if reasoning := message.additional_kwargs.get("reasoning_content"):
        blocks.append({"type": "reasoning", "reasoning": reasoning, "index": "lc_rs_0"})
    if text := str(message.text):  # plain: LangChain's subclass cannot be merged
        blocks.append({"type": "text", "text": text, "index": "lc_txt_0"})
    if message.chunk_position == "last":
        blocks += [{**call, "type": "tool_call"} for call in message.tool_calls]
        blocks += [{**call, "type": "invalid_tool_call"} for call in message.invalid_tool_calls]
    else:
        blocks += [{**call, "index": f"lc_tc_{call['index']}"} for call in message.tool_call_chunks]
    return blocks


def _message_blocks(message: AIMessage) -> list[ContentBlock]:
    raise NotImplementedError  # LangChain's own way does it


register_translator(PROVIDER, _message_blocks, _chunk_blocks)
