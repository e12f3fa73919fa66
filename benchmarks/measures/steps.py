"""The parts of a fan-out, without an engine: a decode step after a prefix, a fork with its drop.

Both libraries live in one process and take turns of a few steps: a machine that gets slower or
faster meanwhile does so for both, and what is compared may be a few per cent. A job for "stock" or
"kvfork" measures that one alone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from benchmarks.job import Found, Job, serve
from benchmarks.library import Context, Library

PREFIXES = (64, 512, 2048, 3500, 7000)
BRANCHES = (1, 8, 32)
OWN = (2048, 8, 256)
"""Shared tokens, branches, and tokens of their own behind them."""

N_ROUNDS = 3
N_STEPS = 3
"""Of one turn, the first left out."""

SECONDS = 0.5
"""Of steps of one kind in one round, at least, for each library on average."""

N_FORKS = 20
"""Of one turn."""

N_FORK_TURNS = 10

FORKED = (7000, 30000)

Models = dict[Library, Any]
"""The model as each library has it, in the order of their turns."""


def measure(job: Job) -> Iterator[Found]:
    libraries = [Library(name) for name in job.contestant.split("+")]
    models = {library: library.load(job.model_path) for library in libraries}
    yield from decode(models, job)
    for prefix in FORKED:
        yield from fork_and_drop(models, job, prefix)


def decode(models: Models, job: Job) -> Iterator[Found]:
    """Time decode steps of branches that share a prefix, or have their own tokens behind it, too.

    Every round is a measurement of each. The own tokens lie in the order of a lock-step decode.
    """
    with ExitStack() as stack:
        shared = {prefix: filled(stack, models, job, prefix, max(BRANCHES)) for prefix in PREFIXES}
        prefix, branches, private = OWN
        own = filled(stack, models, job, prefix, branches, private)
        fork(own, branches)
        rows = [(prefix + i, seq) for i in range(private) for seq in range(1, branches + 1)]
        for context in own:
            for i in range(0, len(rows), 512):
                context.decode(rows[i : i + 512], logits=False)
        for _ in range(N_ROUNDS):
            for n, contexts in shared.items():
                for count in BRANCHES:
                    fork(contexts, count)
                    yield from take_turns(contexts, f"decode {count} at {n}", count, n)
                    drop(contexts, count)
            name = f"decode {branches} at {prefix}+{private}"
            yield from take_turns(own, name, branches, prefix + private)


def filled(
    stack: ExitStack, models: Models, job: Job, prefix: int, branches: int = 1, private: int = 0
) -> list[Context]:
    """Return a context of each library with a prefix, and room for branches."""
    n_ctx = prefix + branches * (private + 1 + N_STEPS + 128)
    contexts = [
        stack.enter_context(Context(library, model, job, n_ctx))
        for library, model in models.items()
    ]
    for context in contexts:
        context.fill(prefix)
    return contexts


def fork(contexts: list[Context], branches: int) -> None:
    for context in contexts:
        for seq in range(1, branches + 1):
            context.library.fork(context.memory, 0, seq)


def drop(contexts: list[Context], branches: int) -> None:
    for context in contexts:
        for seq in range(1, branches + 1):
            context.library.drop(context.memory, seq)


def take_turns(contexts: list[Context], name: str, branches: int, n_past: int) -> Iterator[Found]:
    """Time the next steps of some branches, in each context the same ones again and again."""
    seqs = range(1, branches + 1)
    turn = [[(n_past + i, seq) for seq in seqs] for i in range(1 + N_STEPS)]
    steps: dict[str, list[float]] = {context.library.name: [] for context in contexts}
    while sum(map(sum, steps.values())) < SECONDS * len(contexts):
        for context in contexts:
            # the first one reserves memory, and finds what others left in the processor's caches
            steps[context.library.name] += [context.decode(rows) for rows in turn][1:]
            for seq in seqs:
                context.library.cut(context.memory, seq, n_past)
    for contestant, times in steps.items():
        yield Found(name, statistics.median(times), contestant=contestant)


def fork_and_drop(models: Models, job: Job, prefix: int) -> Iterator[Found]:
    times: dict[str, list[float]] = {library.name: [] for library in models}
    with ExitStack() as stack:
        for context in N_FORK_TURNS * filled(stack, models, job, prefix):
            for _ in range(N_FORKS):
                start = time.perf_counter()
                fork([context], 1)
                drop([context], 1)
                times[context.library.name].append(time.perf_counter() - start)
    for contestant, of_contestant in times.items():
        yield Found(
            f"fork and drop {prefix}", statistics.median(of_contestant), contestant=contestant
        )


if __name__ == "__main__":
    serve(measure)
