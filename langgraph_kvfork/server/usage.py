"""A server's numbers in the form of ours: what of a prompt was in its cache, and its times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import AIMessage

from langgraph_kvfork.errors import ServerWarning
from langgraph_kvfork.server.facts import ServerFacts
from langgraph_kvfork.server.gather import Place
from langgraph_kvfork.warning import is_news, warn

TIMINGS = "server_timings"
"""Where llama-server's timings are, between the answer and the message."""

_warned: dict[str, object] = {}


def describe(
    message: AIMessage, facts: ServerFacts, place: Place, root: str, model: str, total_ms: float
) -> None:
    """Put a call's numbers into its message's metadata, as `ForkReport` reads them.

    `fork` is left out where the server does not report what it took from its cache.

    Args:
        message: The answer; it is changed.
        facts: What the server is.
        place: How the call was sent.
        root: The server's address.
        model: The model's name; "": an earlier chunk of the answer has it.
        total_ms: How long the call took, in milliseconds.
    """
    metadata = message.response_metadata
    timings: Mapping[str, Any] = metadata.pop(TIMINGS, None) or {}
    if model:
        metadata["model_name"] = metadata.get("model_name") or model
    usage = message.usage_metadata
    cached = None
    if usage is not None:
        cached = usage.get("input_token_details", {}).get("cache_read")
    if usage is None or cached is None:
        warn_of_missing(facts, root)
        return
    prefill_ms = float(timings.get("prompt_ms") or 0.0) + place.ahead_ms
    decode_ms = float(timings.get("predicted_ms") or 0.0)
    prefilled = max(usage["input_tokens"] - cached, 0) + place.ahead
    metadata["fork"] = {
        "branch_id": place.branch_id,
        "parent_id": place.parent_id,
        "forked_tokens": max(usage["input_tokens"] - prefilled, 0),
        "prefilled_tokens": prefilled,
        "cell_bytes": None,
    }
    metadata["timings"] = {
        "wait_ms": max(total_ms - prefill_ms - decode_ms, 0.0),
        "prefill_ms": prefill_ms,
        "decode_ms": decode_ms,
        "prefill_tokens_per_second": timings.get("prompt_per_second"),
        "decode_tokens_per_second": timings.get("predicted_per_second"),
    }


def warn_of_missing(facts: ServerFacts, root: str) -> None:
    """Warn once of a server that does not report what it takes from its cache."""
    if not is_news(_warned, root):
        return
    flag = facts.cache_flag
    remedy = f"start it with {flag}" if flag else "no flag is known that lets it"
    warn(
        f"The server at {root} ({facts.kind}) does not report how many prompt tokens came from its "
        f"cache: usage_metadata has no cache_read, and ForkReport leaves its calls out. It may "
        f"share all the same; to see it, {remedy}.",
        ServerWarning,
    )
