"""`bench`: the same fan-out with sharing and without, on the user's own model and machine."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, TypedDict

from langchain_core.messages import AnyMessage, SystemMessage
from langgraph.graph import START, StateGraph

from langgraph_kvfork import ChatKVFork, Engine, ForkNode
from langgraph_kvfork.cli.measure import Run, difference, machine, summary, table
from langgraph_kvfork.machine.threads import default_threads
from langgraph_kvfork.report.plain_text import fold

_OWN = 128
"""Most tokens that a prompt has beside the document: its question, and what the template adds."""


class _State(TypedDict):
    messages: list[AnyMessage]
    branches: list[AnyMessage]


async def bench(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, and report each round on stderr.

    Args:
        options: What the command line gave.

    Returns:
        What was found, as JSON has it.

    Raises:
        KVForkError: The model cannot be used, or `n_ctx` is too small.
    """
    own = _OWN + options.max_tokens
    shared = ChatKVFork(
        model_path=options.model,
        n_ctx=options.n_ctx or options.branches * (options.prefix + own),
        temperature=0,
        max_tokens=options.max_tokens,
        ignore_eos=True,
        cache_dir="",  # what is prefilled is what is measured
    )
    models = {"shared": shared, "alone": shared.model_copy(update={"share_prefix": False})}
    engine = await Engine.aget(shared._engine_params())
    messages = [SystemMessage(_document(engine, options.prefix))]
    # the first computation of a process also brings the weights into memory: not in the measurement
    await shared.ainvoke("Hello", max_tokens=1)
    runs: dict[str, list[Run]] = {name: [] for name in models}
    for i in range(options.rounds):
        for name, llm in models.items():
            runs[name].append(await _run(llm, engine, messages, options.branches))
        times = f"{runs['shared'][-1].seconds:.2f} s sharing, {runs['alone'][-1].seconds:.2f} s not"
        print(f"round {i + 1} of {options.rounds}: {times}", file=sys.stderr, flush=True)
    found = {name: summary(of_name) for name, of_name in runs.items()}
    return {
        "model": Path(engine.params.model_path).name,
        "machine": machine(),
        "threads": engine.params.n_threads or default_threads(),
        "prefix_tokens": options.prefix,
        "branches": options.branches,
        "max_tokens": options.max_tokens,
        "rounds": options.rounds,
        **found,
        "times_as_fast": found["alone"]["seconds"]["median"] / found["shared"]["seconds"]["median"],
    }


def bench_text(found: dict[str, Any], width: int | None = None) -> str:
    """Return what `bench` found, in words; `width`: the longest line."""
    lines = "\n".join(
        [
            f"{found['branches']} branches over {found['prefix_tokens']:,} tokens, "
            f"{found['max_tokens']} generated each, {found['rounds']} rounds",
            f"{found['model']}, {found['threads']} threads, {found['machine']}",
            "",
            *table(found, width),
            "",
            f"Sharing was {found['times_as_fast']:.1f} times as fast.",
            "Beside other servers: `make bench` in a checkout of the source.",
        ]
    )
    return fold(lines, width)


def _document(engine: Engine, n_tokens: int) -> str:
    text = "".join(f"Line {i} of this document says {i * i}.\n" for i in range(n_tokens // 4 + 4))
    tokens = engine.tokenize(text, add_special=False)
    return engine.detokenize(tokens[:n_tokens])


async def _run(llm: ChatKVFork, engine: Engine, messages: list[Any], n_branches: int) -> Run:
    graph = StateGraph(_State)
    graph.add_node("panel", ForkNode(llm, [f"What says line {i}?" for i in range(n_branches)]))
    graph.add_edge(START, "panel")
    panel: Any = graph.compile()
    engine.clear()
    before, start = engine.stats(), time.perf_counter()
    await panel.ainvoke({"messages": messages})
    return difference(before, engine.stats(), time.perf_counter() - start)
