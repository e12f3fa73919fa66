"""The fan-out alone, and while one other program keeps a processor busy.

Ours is the whole graph on ChatKVFork; llama.cpp's is its llama-batched-bench, with libgomp.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

from benchmarks.contestants import CONTESTANTS, batched_bench
from benchmarks.contestants.kvfork import make_llm
from benchmarks.job import Found, Job, serve
from benchmarks.measures.graph import timed

ALONE = "alone"
BESIDE = "beside a busy program"
N_ROUNDS = 3
BUSY = [sys.executable, "-c", "while True: pass"]


def measure(job: Job) -> Iterator[Found]:
    fan_out = ours(job) if job.contestant == "kvfork" else stock(job)
    for _ in range(N_ROUNDS):
        yield Found(ALONE, fan_out())
        other = subprocess.Popen(BUSY)
        try:
            yield Found(BESIDE, fan_out())
        finally:
            other.kill()
            other.wait()


def ours(job: Job) -> Callable[[], float]:
    """Return what runs the graph once, with nothing in the cache, and returns its seconds."""
    llm = make_llm(job)

    def fan_out() -> float:
        llm.engine.clear()
        seconds, _ = timed(llm, job.document, job.questions)
        return seconds

    return fan_out


def stock(job: Job) -> Callable[[], float]:
    """Return what runs llama-batched-bench once, and returns its seconds."""
    return lambda: batched_bench.run(CONTESTANTS["batched-bench"].options["path"], job)


if __name__ == "__main__":
    serve(measure)
