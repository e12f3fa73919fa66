"""A measuring process: started, given its job, ended in time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.job import ROOT, STOCK, Job


@dataclass(frozen=True)
class Outcome:
    """What became of a process.

    Attributes:
        wall: Its seconds, loading included.
        others: Seconds of CPU time that everything else on the machine took meanwhile.
        error: Why it found nothing; "": it did.
        over: Whether that is because its time was over.
        found: What it found, each as a dictionary of `Found`.
    """

    wall: float
    others: float
    error: str = ""
    over: bool = False
    found: list[dict[str, Any]] = field(default_factory=list)


def measure(program: str, job: Job, *, stock: bool, limit: float, log: Path) -> Outcome:
    """Run a program of `benchmarks`.

    Args:
        program: Its module.
        job: What it has to measure.
        stock: Whether its llama-cpp-python is to take stock libllama.
        limit: Seconds after which it is ended.
        log: Where its standard error goes.
    """
    others, start = _others(), time.perf_counter()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{program}"],
            cwd=ROOT,
            env={**os.environ, **({"LLAMA_CPP_LIB_PATH": str(STOCK)} if stock else {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # so that what it starts can be ended with it
        )
    answer, over = "", False
    try:
        answer, _ = process.communicate(json.dumps(dataclasses.asdict(job)), timeout=limit)
    except subprocess.TimeoutExpired:
        over = True
    finally:
        with contextlib.suppress(ProcessLookupError):  # all have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    wall, others = time.perf_counter() - start, max(_others() - others, 0)
    if over:
        return Outcome(wall, others, f"more than {limit:.0f} s", over=True)
    if process.returncode != 0:
        last = log.read_text("utf-8", errors="replace").strip().splitlines()[-1:]
        return Outcome(wall, others, f"failed: {' '.join(last) or process.returncode}")
    return Outcome(wall, others, found=json.loads(answer))


def _others() -> float:
    """Return the seconds of CPU time that all other processes took; 0 where Linux does not say."""
    try:
        with Path("/proc/stat").open(encoding="ascii") as file:
            user, nice, system, _, _, irq, soft_irq = map(int, file.readline().split()[1:8])
    except OSError:
        return 0
    busy = (user + nice + system + irq + soft_irq) / os.sysconf("SC_CLK_TCK")
    return busy - sum(os.times()[:4])  # ours, and of the processes that we have waited for
