"""`bench --server`: the same fan-out on a server, with the prefix first and as it comes."""

from __future__ import annotations

import argparse
import sys
import time
import uuid
from collections.abc import Mapping
from typing import Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, SystemMessage
from langgraph.graph import START, StateGraph

from langgraph_kvfork.checks import require
from langgraph_kvfork.cli.measure import Run, summary, table
from langgraph_kvfork.graph.fork_node import ForkNode
from langgraph_kvfork.report.fork_report import ForkReport
from langgraph_kvfork.report.plain_text import fold


class _State(TypedDict):
    messages: list[AnyMessage]
    branches: list[AnyMessage]


async def server_bench(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, and report each round on stderr.

    Each fan-out has a document of its own, so that nothing of it is in the server's cache.

    Args:
        options: What the command line gave.

    Returns:
        What was found, as JSON has it.

    Raises:
        InvalidRequestError: `n_ctx` is given.
        KVForkError: The server does not answer, refuses the key, or has no room for it.
        MissingPackageError: The package `langchain-openai` is missing.
    """
    from pydantic import SecretStr

    from langgraph_kvfork.server.model import ChatKVForkServer

    require(options.n_ctx is None, "--n-ctx", options.n_ctx, "leave it out: it is the server's own")
    shared = ChatKVForkServer(
        base_url=options.server,
        model=options.model or "",
        api_key=None if options.api_key is None else SecretStr(options.api_key),
        temperature=0,
        max_completion_tokens=options.max_tokens,
        replicas=options.replicas,
        affinity_header=options.affinity_header,
    )
    facts = await shared.aserver_facts()
    if facts.kind != "other":
        shared = shared.model_copy(update={"extra_body": {"ignore_eos": True}})
    models = {"shared": shared, "alone": shared.model_copy(update={"share_prefix": False})}
    n_lines = await _lines(shared, options.prefix)
    runs: dict[str, list[Run]] = {name: [] for name in models}
    for i in range(options.rounds):
        for name, llm in models.items():
            runs[name].append(await _run(llm, n_lines, options.branches))
        times = f"{runs['shared'][-1].seconds:.2f} s sharing, {runs['alone'][-1].seconds:.2f} s not"
        print(f"round {i + 1} of {options.rounds}: {times}", file=sys.stderr, flush=True)
    found = {name: summary(of_name) for name, of_name in runs.items()}
    return {
        "url": options.server,
        "kind": facts.kind,
        "version": facts.version,
        "model": options.model or facts.model,
        "prefix_tokens": options.prefix,
        "branches": options.branches,
        "max_tokens": options.max_tokens,
        "replicas": options.replicas,
        "rounds": options.rounds,
        **found,
        "times_as_fast": found["alone"]["seconds"]["median"] / found["shared"]["seconds"]["median"],
    }


def server_bench_text(found: Mapping[str, Any], width: int | None = None) -> str:
    """Return what `server_bench` found, in words; `width`: the longest line."""
    server = "a server" if found["kind"] == "other" else found["kind"]
    lines = [
        f"{found['branches']} branches over about {found['prefix_tokens']:,} tokens, "
        f"{found['max_tokens']} generated each, {found['rounds']} rounds",
        f"{found['model']}, {server} {found['version']}".rstrip() + f" at {found['url']}",
        "",
        *table(found, width),
        "",
        f"Sharing was {found['times_as_fast']:.1f} times as fast.",
    ]
    if not found["shared"]["prefilled"]:
        lines.append("The server does not report what it prefilled: see doctor --server.")
    return fold("\n".join(lines), width)


def _document(n_lines: int) -> list[AnyMessage]:
    """Return a document that no server has seen: it differs from its first words on."""
    # words, as documents have them: what is shorter than 1,000 characters is not held back
    text = "".join(
        f"Line {i} of this report says that the pump in the garden broke again, and who came.\n"
        for i in range(n_lines)
    )
    return [SystemMessage(f"{uuid.uuid4().hex}\n{text}")]


async def _lines(llm: Any, n_tokens: int) -> int:
    """Return how many lines of a document are about so many tokens; the server counts them."""
    tokens = []
    for n_lines in (4, 20):  # the difference has nothing of what a template adds
        answer: AIMessage = await llm.ainvoke([*_document(n_lines), ("human", "?")], max_tokens=1)
        usage = answer.usage_metadata
        tokens.append(usage["input_tokens"] if usage else 0)
    by_line = (tokens[1] - tokens[0]) / 16 or 20.0  # of a server that does not count
    return max(round(n_tokens / by_line), 1)


async def _run(llm: Any, n_lines: int, n_branches: int) -> Run:
    graph = StateGraph(_State)
    graph.add_node("panel", ForkNode(llm, [f"What says line {i}?" for i in range(n_branches)]))
    graph.add_edge(START, "panel")
    panel: Any = graph.compile()
    messages, start = _document(n_lines), time.perf_counter()
    with ForkReport() as report:
        state = await panel.ainvoke({"messages": messages})
    seconds = time.perf_counter() - start
    usages = (answer.usage_metadata or {} for answer in state["branches"])
    generated = sum(usage.get("output_tokens", 0) for usage in usages)
    return Run(report.prefilled_tokens, report.forked_tokens, generated, seconds)
