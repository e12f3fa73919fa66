"""Memory of branches that decode over one prefix: sharing its cells, or with a copy each.

The stock library has a stream of the cache for each sequence, as is its default; a copy of the
whole prefix is the only fork from one to another. The context is as large as what is in it needs:
llama.cpp takes the memory of all cells when it is made.
"""

from __future__ import annotations

import resource
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.job import Found, Job, serve
from benchmarks.library import Context, Library

BRANCHES = 32
PREFIX = 7000
OWN = 16
"""Tokens that each branch decodes, one at a time."""

PAGE = 64
CELLS = -(-PREFIX // 256) * 256
"""Of a branch's stream, or of the shared prefix: llama.cpp rounds up to so many."""


def measure(job: Job) -> Iterator[Found]:
    library = Library(job.contestant)
    model = library.load(job.model_path)
    if library.ours:
        context = Context(library, model, job, CELLS + BRANCHES * PAGE)
    else:
        context = Context(library, model, job, BRANCHES * CELLS, n_streams=BRANCHES)
    with context:
        context.fill(PREFIX)
        forget_peak()
        for seq in range(1, BRANCHES):
            library.fork(context.memory, 0, seq)
        steps = [context.decode([(PREFIX + i, seq) for seq in range(BRANCHES)]) for i in range(OWN)]
        yield Found(
            f"{BRANCHES} branches over {PREFIX:,}",
            statistics.median(steps),
            generated=BRANCHES * OWN,
            cells=library.n_cells_used(context.memory, BRANCHES),
            peak=peak(),
        )


def forget_peak() -> None:
    """Let the peak begin anew, without what filling the cache took; only Linux can."""
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")


def peak() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


if __name__ == "__main__":
    serve(measure)
