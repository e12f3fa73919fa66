"""What lets several answers to one prompt differ."""

from __future__ import annotations

from dataclasses import replace

from langgraph_kvfork.arguments import RANDOM_SEED
from langgraph_kvfork.branches.request import Request
from langgraph_kvfork.errors import EqualAnswersWarning
from langgraph_kvfork.hooks.sample import current_sample
from langgraph_kvfork.warning import warn


def of_sample(request: Request) -> Request:
    """Return a request with the seed of the sample that this call gives.

    That is `seed` for the first, `seed + 1` for the second, and so on. Without a seed, each call
    draws a random one. If nothing is random, the first sample warns.
    """
    sample = current_sample()
    if sample.count == 1:
        return request
    greedy = {"temperature": 0, "top_k": 1, "top_p": 0, "min_p": 1}
    name = next((f"{n}={v}" for n, v in greedy.items() if getattr(request, n) == v), None)
    if sample.number == 0 and name is not None:
        warn(
            f"All {sample.count} answers to one prompt will be equal, since {name} takes the most "
            "likely token each time: leave it out, or pass another value, as "
            "llm.bind(temperature=0.8).",
            EqualAnswersWarning,
        )
    if request.seed is None or request.seed < 0:
        return request
    return replace(request, seed=(request.seed + sample.number) % RANDOM_SEED)
