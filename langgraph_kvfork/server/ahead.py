"""Messages that are computed ahead of calls, and what that took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatResult

from langgraph_kvfork.branches.events import Usage
from langgraph_kvfork.server.gather import Place, Way
from langgraph_kvfork.server.prompt_text import common_tokens
from langgraph_kvfork.server.requests import Requests
from langgraph_kvfork.server.slots import SavedSlots, tokens_of


async def prefill(
    requests: Requests, way: Way, payloads: Sequence[dict[str, Any]], begin: float
) -> Usage:
    """Let a llama-server compute what some requests begin with.

    Args:
        requests: Sends requests to it.
        way: How its requests share.
        payloads: The requests.
        begin: When the call began, by `time.perf_counter`.

    Raises:
        ServerRefusedError: It refuses that.
        openai.APIError: It fails.
    """
    prompts = [await tokens_of(requests, payload) for payload in payloads]
    tokens = prompts[0][: common_tokens(prompts)]
    place = Place()
    if isinstance(way, SavedSlots):
        prefix, timings = await way.prefill(tokens)
        if prefix is not None:
            prefix.first = place.branch_id
    else:
        body = {"prompt": tokens, "n_predict": 0, "cache_prompt": True}
        timings = (await requests.post("/completion", body))["timings"]
    wait_ms = 1000 * (time.perf_counter() - begin) - float(timings["prompt_ms"])
    return Usage(
        branch_id=place.branch_id,
        prompt_tokens=len(tokens),
        forked_tokens=max(len(tokens) - int(timings["prompt_n"]), 0),
        prefilled_tokens=int(timings["prompt_n"]),
        generated_tokens=0,
        preemptions=0,
        parent_id=None,
        wait_ms=max(wait_ms, 0.0),
        prefill_ms=float(timings["prompt_ms"]),
        decode_ms=0.0,
    )


def usage_of(result: ChatResult, begin: float) -> Usage:
    """Return the numbers of a request of one token, as far as the server reports them.

    Args:
        result: Its answer.
        begin: When it began, by `time.perf_counter`.
    """
    message = result.generations[0].message
    metadata = message.response_metadata.get("fork")
    usage = message.usage_metadata if isinstance(message, AIMessage) else None
    total_ms = 1000 * (time.perf_counter() - begin)
    if metadata is None or usage is None:  # not reported: a report leaves it out
        return Usage(0, 0, 0, 0, 0, 0, None, total_ms, 0.0, 0.0)
    return Usage(
        branch_id=metadata["branch_id"],
        prompt_tokens=usage["input_tokens"],
        forked_tokens=metadata["forked_tokens"],
        prefilled_tokens=metadata["prefilled_tokens"],
        generated_tokens=usage["output_tokens"],
        preemptions=0,
        parent_id=metadata["parent_id"],
        wait_ms=total_ms,
        prefill_ms=0.0,
        decode_ms=0.0,
    )
