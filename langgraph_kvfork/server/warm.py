"""Servers whose cache is a tree of blocks: vLLM, SGLang, and others that are spoken to alike.

- vLLM shares a prefix that another request is still computing, so nothing is held back.
- SGLang's default policy does not: one request of one token comes first, and the others find its
  prefix. With `--schedule-policy lpm` nothing is held back.
- Several replicas share nothing: a request of one token comes first on each that is used, and an
  affinity key lets a router send the branches where it went.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import openai

from langgraph_kvfork.order.watch import common_prefix
from langgraph_kvfork.server.affinity import Affinity
from langgraph_kvfork.server.facts import ServerFacts
from langgraph_kvfork.server.gather import FanOut, Member, Place
from langgraph_kvfork.server.requests import Requests, ServerRefusedError, body_of

_log = logging.getLogger(__name__)

_MOST_KEYS = 64
_MOST_TEXT = 100_000


@dataclass(eq=False)
class _Shares:
    """What is known of a fan-out, by its shares, of which each goes to one replica.

    Attributes:
        of: The share of each branch.
        key: By which a router tells the fan-out from others; "": it is not told.
        ahead: Tokens that the request ahead of a share computed.
        first: The number of the call that a share's prefix is computed for.
    """

    of: list[int]
    key: str
    ahead: dict[int, int] = field(default_factory=dict)
    first: dict[int, int] = field(default_factory=dict)


class Warm:
    """Requests of one token ahead of a fan-out, where the server needs them.

    Args:
        requests: Sends requests to the server.
        facts: What it is.
        affinity: How a router is told which requests belong together.
    """

    def __init__(self, requests: Requests, facts: ServerFacts, affinity: Affinity) -> None:
        self._requests = requests
        self._facts = facts
        self._affinity = affinity
        self._known: dict[str, str] = {}

    async def prepare(self, fan_out: FanOut) -> None:
        """Send one token's request to each replica that the fan-out will use."""
        of = self._affinity.shares(len(fan_out.members))
        key = self._key(fan_out.text) if self._affinity.is_used else ""
        fan_out.state = shares = _Shares(of, key)
        in_flight = self._facts.shares_in_flight and self._affinity.replicas == 1
        knows = self._facts.kind != "other" or self._affinity.replicas > 1
        if in_flight or not knows:
            return
        # one that is alone on its replica has nobody to warm it for
        warmed = [share for share in sorted(set(of)) if of.count(share) > 1]
        await asyncio.gather(*(self._warm(fan_out, shares, share) for share in warmed))

    async def _warm(self, fan_out: FanOut, shares: _Shares, share: int) -> None:
        key = self._affinity.of(shares.key, share)
        # what changes an answer does not change what its prompt begins with
        answers = ("response_format", "tool_choice", "n", "max_completion_tokens", "min_tokens")
        body = body_of(fan_out.members[shares.of.index(share)].payload, *answers)
        body.update(key.body, max_tokens=1, stream=False)
        try:
            answer = await self._requests.post("/v1/chat/completions", body, headers=key.headers)
        except (ServerRefusedError, openai.APIError) as error:
            _log.info("The request ahead of a fan-out has failed: %s", error)
            return
        shares.ahead[share] = _computed(answer)

    @asynccontextmanager
    async def place(self, fan_out: FanOut, member: Member) -> AsyncIterator[Place]:
        """Return where a branch meets its prefix."""
        place, shares = Place(), fan_out.state
        share = shares.of[fan_out.members.index(member)]
        if share in shares.first:
            place.parent_id = shares.first[share]
        else:
            shares.first[share] = place.branch_id
            place.ahead = shares.ahead.get(share, 0)
        key = self._affinity.of(shares.key, share)
        place.body, place.headers = dict(key.body), dict(key.headers)
        yield place

    def note(self, timings: dict[str, Any]) -> None:
        """Nothing here depends on speeds."""

    def _key(self, text: str) -> str:
        """Return a fan-out's key: that of an earlier one that began alike, or a new one."""
        text = text[:_MOST_TEXT]
        for known, key in self._known.items():
            if common_prefix(known, text) >= max(1, min(len(known), len(text)) // 2):
                self._known[known] = self._known.pop(known)  # the latest is the last
                return key
        while len(self._known) >= _MOST_KEYS:
            del self._known[next(iter(self._known))]
        key = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]
        self._known[text] = key
        return key


def _computed(answer: Any) -> int:
    """Return how many tokens of its prompt a server computed; 0: it does not say."""
    try:
        usage = answer["usage"]
        return int(usage["prompt_tokens"]) - int(usage["prompt_tokens_details"]["cached_tokens"])
    except (KeyError, TypeError, ValueError):
        return 0
