"""What a run took, and on which machine: for the demo and the benchmark."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from langgraph_kvfork.engine.stats import EngineStats
from langgraph_kvfork.report.plain_text import text_table


@dataclass(frozen=True)
class Run:
    """What one run of a graph took.

    Attributes:
        prefilled: Prompt tokens computed.
        forked: Prompt tokens that came with a fork.
        generated: Tokens generated.
        seconds: Wall time.
    """

    prefilled: int
    forked: int
    generated: int
    seconds: float


def difference(before: EngineStats, after: EngineStats, seconds: float) -> Run:
    """Return what an engine did between two looks at its counters."""
    return Run(
        prefilled=after.prefilled_tokens - before.prefilled_tokens,
        forked=after.forked_tokens - before.forked_tokens,
        generated=after.generated_tokens - before.generated_tokens,
        seconds=seconds,
    )


def machine() -> str:
    """Return the machine's name: processor, cores and system."""
    name = platform.processor() or platform.machine()
    # neither Python nor psutil knows a processor's name on Linux
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((s.split(":")[1].strip() for s in lines if s.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores, {platform.system()}"


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the times of some runs, and the last one's counts, as JSON has them."""
    seconds = [run.seconds for run in runs]
    counts = asdict(runs[-1])
    del counts["seconds"]
    return {
        **counts,
        "seconds": {"median": median(seconds), "fastest": min(seconds), "slowest": max(seconds)},
    }


def table(found: Mapping[str, Any], width: int | None) -> list[str]:
    """Return the lines that compare runs with sharing and without, each a `summary`.

    Args:
        found: The summaries, as "shared" and "alone".
        width: The longest line; None: any.
    """
    rows = [["", "median", "fastest", "slowest", "prefilled", "forked", "generated"]]
    for name, title in (("shared", "sharing"), ("alone", "share_prefix=False")):
        times = [f"{found[name]['seconds'][t]:.2f} s" for t in ("median", "fastest", "slowest")]
        counts = [f"{found[name][c]:,}" for c in ("prefilled", "forked", "generated")]
        rows.append([title, *times, *counts])
    return text_table(rows, width)
