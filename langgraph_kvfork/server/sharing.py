"""What is known of a server, for all chat models of this process that speak to it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from langgraph_kvfork.errors import ServerWarning
from langgraph_kvfork.server.affinity import Affinity
from langgraph_kvfork.server.facts import Kind, ServerFacts, find_facts
from langgraph_kvfork.server.gather import Gatherer, Way
from langgraph_kvfork.server.loop import after_fork
from langgraph_kvfork.server.requests import Requests
from langgraph_kvfork.server.slots import OneSlot, SavedSlots
from langgraph_kvfork.server.warm import Warm
from langgraph_kvfork.warning import warn


@dataclass(eq=False)
class Sharing:
    """A server.

    Attributes:
        facts: What it is.
        gatherer: Puts calls to it together.
    """

    facts: ServerFacts
    gatherer: Gatherer


_known: dict[object, asyncio.Task[Sharing]] = {}


async def sharing_of(requests: Requests, kind: Kind | None, affinity: Affinity) -> Sharing:
    """Return what is known of a server; it is asked once, and again if that failed.

    Raises:
        openai.APIConnectionError: Nobody answers.
        ServerRefusedError: It refuses the key.
    """
    key = (requests.root, kind, affinity)
    task = _known.get(key)
    if task is None:
        task = _known[key] = asyncio.create_task(_find(requests, kind, affinity))
    try:
        return await asyncio.shield(task)
    except BaseException:
        if task.done() and _known.get(key) is task and (task.cancelled() or task.exception()):
            del _known[key]
        raise


async def _find(requests: Requests, kind: Kind | None, affinity: Affinity) -> Sharing:
    facts = await find_facts(requests, kind)
    way: Way = Warm(requests, facts, affinity)
    if facts.kind == "llama-server" and affinity.replicas == 1:
        way = SavedSlots(requests, facts) if facts.saves_slots else OneSlot(requests)
        if not facts.saves_slots and (facts.slots or 1) > 1:
            warn(
                f"The llama-server at {requests.root} computes what branches share once per slot, "
                "unless they go one after another: start it with --slot-save-path, and one "
                "prefill serves all of its slots.",
                ServerWarning,
            )
    return Sharing(facts, Gatherer(way))


after_fork(_known.clear)
