"""Who is compared, and the programs that run them, in this folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.job import ROOT, STOCK


@dataclass(frozen=True)
class Contestant:
    """One who runs the fan-out.

    Attributes:
        label: Its name in tables. Several of one label are ways to run the same program, of which
            tables and plots show the fastest.
        program: The module that runs it.
        options: What that module is to do for it.
        ours: Whether it is this project's work.
        stock_library: Whether its llama-cpp-python is to take stock libllama.
    """

    label: str
    program: str
    options: Mapping[str, Any] = field(default_factory=dict)
    ours: bool = False
    stock_library: bool = False


def _kvfork(label: str, **fields: Any) -> Contestant:
    return Contestant(label, "kvfork", fields, ours=True)


def _server(label: str, *, unified: bool, warmed: bool = False) -> Contestant:
    return Contestant(label, "llama_server", {"warmed": warmed, "unified": unified})


def _shared_server(label: str, *, unified: bool) -> Contestant:
    options = {"warmed": False, "unified": unified}
    return Contestant(label, "shared_llama_server", options, ours=True)


_COLD = "llama-server, a slot per branch"
_WARMED = "llama-server, after a request about the document"
_SHARED = "llama-server, through ChatKVForkServer"
_OUR_TOOLS = ROOT / "build" / "native" / "bin"

CONTESTANTS = {
    "kvfork": _kvfork("ChatKVFork"),
    "kvfork-invariant": _kvfork("ChatKVFork, batch-invariant", batch_invariant=True),
    "llama-cpp-python": Contestant(
        "llama-cpp-python behind a lock", "llama_cpp_python", stock_library=True
    ),
    "article": Contestant("KV state copied to a context per branch", "article", stock_library=True),
    "llama-server": _server(_COLD, unified=True),
    "llama-server-split": _server(_COLD, unified=False),
    "llama-server-warmed": _server(_WARMED, unified=True, warmed=True),
    "llama-server-warmed-split": _server(_WARMED, unified=False, warmed=True),
    "llama-server-shared": _shared_server(_SHARED, unified=True),
    "llama-server-shared-split": _shared_server(_SHARED, unified=False),
    "batched-bench": Contestant(
        "llama-batched-bench", "batched_bench", {"path": STOCK / "llama-batched-bench"}
    ),
    "batched-bench-kvfork": Contestant(
        "llama-batched-bench on our library",
        "batched_bench",
        {"path": _OUR_TOOLS / "kvfork-batched-bench"},
        ours=True,
    ),
}
"""In the order of the tables' rows."""
