"""The parts of a fan-out, without an engine: a decode step after a prefix, a fork with its drop."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.job import Found, Job, serve
from benchmarks.library import Context, Library

PREFIXES = (64, 512, 2048, 3500, 7000)
BRANCHES = (1, 8)
N_STEPS = 16
SECONDS = 1.0
"""Of steps of one kind, at least."""

N_FORKS = 200
FORKED = (7000, 30000)


def measure(job: Job) -> Iterator[Found]:
    library = Library(job.contestant)
    model = library.load(job.model_path)
    for prefix in PREFIXES:
        for branches in BRANCHES:
            yield decode(library, model, job, branches, prefix)
    yield decode(library, model, job, 8, 2048, private=256)
    for prefix in FORKED:
        yield fork_and_drop(library, model, job, prefix)


def decode(
    library: Library, model: Any, job: Job, branches: int, prefix: int, private: int = 0
) -> Found:
    """Time a decode step of some branches that share a prefix, as the median of many steps.

    `private` tokens of their own lie behind the prefix, in the order of a lock-step decode. Short
    steps are taken again from the same fork, until there are seconds of them.
    """
    own = private + 1 + N_STEPS
    rows = [(prefix + i, 1 + seq) for i in range(own) for seq in range(branches)]
    steps: list[float] = []
    with Context(library, model, job, prefix + branches * (own + 128)) as context:
        context.fill(prefix)
        while sum(steps) < SECONDS:
            for seq in range(1, branches + 1):
                library.fork(context.memory, 0, seq)
            for start in range(0, branches * private, 512):
                part = rows[start : start + min(512, branches * private - start)]
                context.decode(part, logits=False)
            again = [
                context.decode(rows[i * branches : (i + 1) * branches]) for i in range(private, own)
            ]
            # the first one also reserves memory
            steps += again[1:]
            for seq in range(1, branches + 1):
                library.drop(context.memory, seq)
    behind = f"+{private}" if private else ""
    return Found(f"decode {branches} at {prefix}{behind}", statistics.median(steps))


def fork_and_drop(library: Library, model: Any, job: Job, prefix: int) -> Found:
    with Context(library, model, job, prefix + 256) as context:
        context.fill(prefix)
        times = []
        for _ in range(N_FORKS):
            start = time.perf_counter()
            library.fork(context.memory, 0, 1)
            library.drop(context.memory, 1)
            times.append(time.perf_counter() - start)
        return Found(f"fork and drop {prefix}", statistics.median(times))


if __name__ == "__main__":
    serve(measure)
