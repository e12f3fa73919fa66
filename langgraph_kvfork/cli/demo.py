"""The demo: a panel of agents reads one document, with and without sharing its prefill."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypedDict

from langchain_core.messages import AnyMessage, HumanMessage, SystemMessage
from langgraph.graph import END, START, StateGraph

from langgraph_kvfork import ChatKVFork, Engine, ForkNode, PrefillNode
from langgraph_kvfork.cli.demo_view import View, make_view, print_table
from langgraph_kvfork.cli.measure import Run, difference, machine
from langgraph_kvfork.errors import InvalidRequestError

QUESTIONS = {
    "permissions": "What does this license allow me to do with the software?",
    "conditions": "What must I do when I give copies of the software to others?",
    "patents": "What does this license say about patents?",
    "trademarks": "May I use the name and the trademarks of the author?",
    "warranty": "Which warranty does the author give?",
    "liability": "Who is liable if the software causes damage?",
    "contributions": "Under which terms are contributions submitted?",
    "notices": "What must happen to a NOTICE file?",
}


class PanelState(TypedDict):
    """State of the demo's graph."""

    messages: list[AnyMessage]
    branches: dict[str, AnyMessage]
    summary: AnyMessage


async def demo(options: argparse.Namespace) -> None:
    """Run the demo.

    Args:
        options: What the command line gave.

    Raises:
        KVForkError: The document or the model cannot be used.
    """
    document = _document(options.document)
    questions = dict(list(QUESTIONS.items())[: options.branches])
    llm = ChatKVFork(
        model_path=options.model,
        n_ctx=options.n_ctx,
        max_tokens=options.max_tokens,
        temperature=0,
        cache_dir="",  # what is prefilled is what is shown
    )
    engine = await Engine.aget(llm._engine_params())
    # the first computation of a process also brings the weights into memory: not in the measurement
    await llm.ainvoke("Hello", max_tokens=1)

    shared = await _run(llm, document, questions, "with sharing")
    runs = {"sharing on": shared}
    if not options.no_compare:
        alone = llm.model_copy(update={"share_prefix": False})
        runs["sharing off"] = await _run(alone, document, questions, "the same graph, sharing off")
    print_table(
        {name: _columns(run) for name, run in runs.items()},
        f"{Path(engine.params.model_path).name}, {len(questions)} branches, measured in this run "
        f"on {machine()}",
    )
    if not options.no_compare:
        print(f"Sharing took 1/{runs['sharing off'].seconds / shared.seconds:.1f} of the time.")


def build_graph(llm: ChatKVFork, questions: dict[str, str]) -> Any:
    """Return the graph: read, ask everything at once, sum up."""

    async def join(state: PanelState) -> dict[str, AnyMessage]:
        notes = "\n".join(f"{name}: {answer.text}" for name, answer in state["branches"].items())
        question = HumanMessage(f"Readers of the document noted:\n{notes}\nSum that up briefly.")
        return {"summary": await llm.ainvoke([*state["messages"], question])}

    graph = StateGraph(PanelState)
    graph.add_node("read", PrefillNode(llm))
    graph.add_node("panel", ForkNode(llm, questions))
    graph.add_node("summary", join)
    graph.add_edge(START, "read")
    graph.add_edge("read", "panel")
    graph.add_edge("panel", "summary")
    graph.add_edge("summary", END)
    return graph.compile()


async def _run(llm: ChatKVFork, document: str, questions: dict[str, str], title: str) -> Run:
    engine = llm.engine
    engine.clear()
    messages = [SystemMessage(f"Answer in one sentence.\n\n{document}")]
    graph = build_graph(llm, questions)
    before, start = engine.stats(), time.perf_counter()
    with make_view(title, [*questions, "summary"]) as view:
        async with _watched_prefill(llm, messages, questions, view):
            state = {"messages": messages}
            async for mode, item in graph.astream(state, stream_mode=["messages", "custom"]):
                if mode == "custom":
                    view.prefill(**item["prefill"])
                else:
                    chunk, metadata = item
                    name = metadata.get("kvfork_branch", metadata["langgraph_node"])
                    view.text(name, chunk.text, last=chunk.chunk_position == "last")
    return difference(before, engine.stats(), time.perf_counter() - start)


@contextlib.asynccontextmanager
async def _watched_prefill(
    llm: ChatKVFork, messages: list[Any], questions: dict[str, str], view: View
) -> AsyncIterator[None]:
    """Show the prefill of a run without sharing from the counters, since no node reports it."""
    if llm.share_prefix:
        yield
        return
    engine = llm.engine
    total = sum(
        llm.get_num_tokens_from_messages([*messages, HumanMessage(question)])
        for question in questions.values()
    )
    before = engine.stats().prefilled_tokens

    async def watch() -> None:
        while True:
            view.prefill(min(engine.stats().prefilled_tokens - before, total), total)
            await asyncio.sleep(0.5)

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()


def _columns(run: Run) -> dict[str, str]:
    return {
        "prefilled tokens": f"{run.prefilled:,}",
        "forked tokens": f"{run.forked:,}",
        "generated tokens": f"{run.generated:,}",
        "wall time": f"{run.seconds:.1f} s",
    }


def _document(path: Path | None) -> str:
    found = _license() if path is None else path
    if found is None:
        raise InvalidRequestError("This installation has no LICENSE to read: pass a --document.")
    try:
        return found.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"--document {found} cannot be read as text: {error}.") from error


def _license() -> Path | None:
    checkout = Path(__file__).parents[1] / "LICENSE"
    if checkout.is_file():
        return checkout
    try:
        files = importlib.metadata.files("langgraph-kvfork") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(f.locate())) for f in files if f.name == "LICENSE"), None)
