"""`doctor --server`: what a server is, what it shares and reports, and which flag would help."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from langgraph_kvfork.report.plain_text import fold

_LABEL = 10
"""Columns of the labels on the left."""


def server_doctor(url: str, api_key: str | None = None) -> dict[str, Any]:
    """Return what a server says of itself, and what follows for a fan-out.

    Args:
        url: Its address.
        api_key: Its key, if it has one.

    Raises:
        KVForkError: It does not answer, or refuses the key.
        MissingPackageError: The package `langchain-openai` is missing.
    """
    from pydantic import SecretStr

    from langgraph_kvfork.server.model import ChatKVForkServer

    key = None if api_key is None else SecretStr(api_key)
    facts = ChatKVForkServer(base_url=url, api_key=key).server_facts()
    found = asdict(facts)
    return {
        "url": url,
        **found,
        "shares": _shares(found, in_flight=facts.shares_in_flight),
        "advice": list(_advice(found, facts.cache_flag)),
    }


def server_text(found: Mapping[str, Any], width: int | None = None) -> str:
    """Return what `server_doctor` found, in words; `width`: the longest line."""
    name = "not one that is known here" if found["kind"] == "other" else found["kind"]
    lines = [
        f"server:   {name} {found['version']}".rstrip() + f" at {found['url']}",
        f"model:    {found['model'] or 'it does not say'}",
        f"context:  {_context(found)}",
        f"shares:   {found['shares']}",
        f"reports:  {_reports(found['reports_cache'])}",
    ]
    lines += [f"advice:   {each}" for each in found["advice"]]
    return fold("\n".join(lines), width, _LABEL)


def _context(found: Mapping[str, Any]) -> str:
    if found["n_ctx"] is None:
        return "it does not say"
    slots = f", {found['slots']} slots" if found["slots"] else ""
    return f"{found['n_ctx']:,} tokens a prompt{slots}"


def _shares(found: Mapping[str, Any], *, in_flight: bool) -> str:
    if found["kind"] == "llama-server":
        if found["saves_slots"]:
            return "one prefill for all slots, which is saved and restored"
        return "nothing between slots: branches go one after another where that is faster"
    if in_flight:
        return "what simultaneous requests begin with, also while it is computed: all go at once"
    if found["kind"] == "sglang":
        return "what is in its cache: a request of one token goes ahead of a fan-out"
    return "unknown: nothing is held back"


def _reports(reports: bool | None) -> str:
    if reports is None:
        return "unknown until the first answer, whether it reports tokens from its cache"
    return "how many tokens came from its cache" if reports else "no tokens from its cache"


def _advice(found: Mapping[str, Any], cache_flag: str) -> Iterator[str]:
    if found["kind"] == "llama-server":
        if not found["saves_slots"]:
            yield "start it with --slot-save-path: a fan-out is then prefilled once for all slots"
        if not found["shows_slots"]:
            yield "start it without --no-slots: it is seen then which slots are idle"
    if found["kind"] == "sglang" and not found["schedule_policy"].startswith("lpm"):
        yield "start it with --schedule-policy lpm: no request has to go ahead of a fan-out"
    if cache_flag and found["reports_cache"] is not True:
        yield f"start it with {cache_flag}: messages and reports show then what was shared"
