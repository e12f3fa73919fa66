"""What a branch says, as LangChain's messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.outputs import ChatGenerationChunk

from langgraph_kvfork.engine import Engine
from langgraph_kvfork.events import Done, Event, Logprob, PrefillProgress, Usage

PROVIDER = "kvfork"
"""`model_provider` in messages, and `ls_provider` in traces."""


class Answer:
    """Turns a branch's events into message chunks.

    Args:
        engine: Whose branch it is.
        model_name: For `response_metadata`.
        shared: Whether what was computed is left to others.
    """

    def __init__(self, engine: Engine, model_name: str, *, shared: bool) -> None:
        self._engine = engine
        self._model_name = model_name
        self._shared = shared

    def chunk(self, event: Event) -> ChatGenerationChunk | None:
        """Return the chunk for an event; None if there is nothing to tell.

        Usage and metadata are in the last chunk only, so that adding chunks up counts them once.
        """
        if isinstance(event, PrefillProgress):
            return None
        if isinstance(event, Done):
            return ChatGenerationChunk(
                message=AIMessageChunk(
                    content=event.text,
                    usage_metadata=usage_metadata(event.usage, shared=self._shared),
                    response_metadata=self._metadata(event),
                    chunk_position="last",
                )
            )
        metadata: dict[str, Any] = {}
        if event.logprobs:
            metadata["logprobs"] = {"content": [self._logprobs(event.logprobs)]}
        elif not event.text:
            return None
        return ChatGenerationChunk(
            message=AIMessageChunk(content=event.text, response_metadata=metadata)
        )

    def _metadata(self, done: Done) -> dict[str, Any]:
        usage = done.usage
        return {
            "model_name": self._model_name,
            "model_provider": PROVIDER,
            "finish_reason": done.finish_reason,
            "timings": {
                "wait_ms": usage.wait_ms,
                "prefill_ms": usage.prefill_ms,
                "decode_ms": usage.decode_ms,
                "prefill_tokens_per_second": _rate(usage.prefilled_tokens, usage.prefill_ms),
                # the first token is sampled from what the prefill computed
                "decode_tokens_per_second": _rate(usage.generated_tokens - 1, usage.decode_ms),
            },
            "fork": {"parent": usage.parent, "forked_tokens": usage.forked_tokens},
        }

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


def usage_metadata(usage: Usage, *, shared: bool) -> UsageMetadata:
    """Return LangChain's form of a branch's tokens.

    Args:
        usage: The branch's.
        shared: Whether the prompt tokens that were computed are left in the cache for others.
    """
    forked = min(usage.forked_tokens, usage.prompt_tokens)
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.generated_tokens,
        total_tokens=usage.prompt_tokens + usage.generated_tokens,
        input_token_details=InputTokenDetails(
            cache_read=forked,
            cache_creation=usage.prompt_tokens - forked if shared else 0,
        ),
    )


def _rate(tokens: int, milliseconds: float) -> float | None:
    return 1000.0 * tokens / milliseconds if tokens > 0 and milliseconds > 0 else None
