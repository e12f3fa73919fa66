"""Real vLLMs on this machine's processor, with a tiny model; see the Makefile."""

import importlib.metadata
from pathlib import Path

import pytest
from langchain_core.messages import SystemMessage
from vllm_servers import BUILD, Router, Vllm

from langgraph_kvfork.cli.measure import machine


@pytest.fixture(scope="session")
def document():
    text = (Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8")
    return [SystemMessage(f"Answer in one sentence.\n\n{text}")]


@pytest.fixture(scope="session")
def replicas():
    """Two servers that know nothing of one another."""
    told = "--enable-prompt-tokens-details"
    with Vllm(told) as first, Vllm(told) as second:
        yield first, second


@pytest.fixture(scope="session")
def vllm(replicas):
    return replicas[0]


@pytest.fixture(scope="session")
def router(replicas):
    with Router(*replicas) as router:
        yield router


LEGEND = (
    "By `make test-vllm`, whose last run leaves this in build/vllm/cluster.md. Eight branches "
    "ask about one document, each time another one. Tokens looked up in the cache and found "
    "there are the growth of vLLM's `prefix_cache_queries` and `prefix_cache_hits`, of all "
    "replicas together; prefilled and forked is what `ForkReport` says, cached what the eight "
    "messages say. A block has 32 tokens. What was found and is not cached was found by "
    "requests of one token that went ahead when the prefix was there already: after a "
    "`PrefillNode`, and for the last branches in threads, which a pool runs later."
)
COLUMNS = (
    *("servers", "graph", "branches run in", "looked up", "found", "not found"),
    *("prefilled", "cached", "forked"),
)


@pytest.fixture(scope="session")
def record():
    """Rows of the record, which is written when all tests have run."""
    rows = []
    yield rows
    version = importlib.metadata.version("langgraph-kvfork")
    where = f"langgraph-kvfork {version}, vLLM 0.32.0, {machine()}"
    lines = ["# What a fan-out computes on vLLM", "", LEGEND, "", where, ""]
    for cells in (COLUMNS, ["---"] * 3 + ["---:"] * 6, *rows):
        texts = (f"{cell:,}" if isinstance(cell, int) else cell for cell in cells)
        lines.append(f"| {' | '.join(texts)} |")
    (BUILD / "cluster.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
