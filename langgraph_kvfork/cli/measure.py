"""What a run took, and on which machine: for the demo and the benchmark."""

from __future__ import annotations

import contextlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from langgraph_kvfork.engine.stats import EngineStats


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
