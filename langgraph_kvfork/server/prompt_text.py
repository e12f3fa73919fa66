"""What of two requests is alike, found without the server: their text, in a prompt's order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langgraph_kvfork.order.watch import common_prefix

LEAST = 1000
"""Characters in common from which on sharing is worth a thought: some 250 tokens."""


def prompt_text(payload: Mapping[str, Any]) -> str:
    """Return a request's tools and messages as one text, in the order in which prompts have them.

    Two prompts begin alike if these texts do: chat templates put tools first, then the messages.
    """
    parts = [f"{payload.get('model')}\n"]
    # one that forces a call, or a schema, may stand at a prompt's beginning too
    ahead = (payload.get(name) for name in ("tools", "response_format", "chat_template_kwargs"))
    parts += [json.dumps(each, default=str, sort_keys=True) for each in ahead if each]
    for message in payload.get("messages") or ():
        parts.append(f"\n<{message.get('role')}>\n")
        content = message.get("content")
        parts.append(content if isinstance(content, str) else json.dumps(content, default=str))
        if message.get("tool_calls"):
            parts.append(json.dumps(message["tool_calls"], default=str))
    return "".join(parts)


def alike(texts: Sequence[str]) -> list[list[int]]:
    """Return the texts in groups that begin alike, as their indices; most groups have one.

    Two texts belong together if at least half of the shorter one is in common.
    """
    groups: list[list[int]] = []
    for i, text in enumerate(texts):
        for group in groups:
            first = texts[group[0]]
            least = max(LEAST, min(len(first), len(text)) // 2)
            if common_prefix(first, text) >= least:
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


def common_text(texts: Sequence[str]) -> str:
    """Return what all texts begin with."""
    first, last = min(texts), max(texts)
    return first[: common_prefix(first, last)]


def common_tokens(prompts: Sequence[list[int]]) -> int:
    """Return how many tokens all prompts begin with in common."""
    first, last = min(prompts), max(prompts)
    low, high = 0, min(len(first), len(last))
    while low < high:  # slices are compared fast
        middle = (low + high + 1) // 2
        if first[low:middle] == last[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
