"""An engine that has run for a while: a fan-out in a cache full of what fifty others left.

The others' documents differ, so that nothing of them can be forked, and all of it has to make room.
What is compared are the seconds and the pages read of the same fan-out in an empty cache.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.contestants.kvfork import make_llm
from benchmarks.job import Found, Job, serve
from benchmarks.measures.graph import timed
from langgraph_kvfork import ChatKVFork

N_BEFORE = 50
N_ROUNDS = 6


def measure(job: Job) -> Iterator[Found]:
    llm = make_llm(job)
    for _ in range(N_ROUNDS):
        llm.engine.clear()
        yield from measured("in an empty cache", llm, job.document, job.questions)
    # a tenth of the document: the fifty are to fill the cache, not to take an hour
    short = job.document[: len(job.document) // 10]
    llm.engine.clear()
    for i in range(N_BEFORE):
        timed(llm, f"Document {i}. {short}", job.more_questions)
    for i in range(N_ROUNDS):
        yield from measured("in a full cache", llm, f"{i} {job.document[2:]}", job.questions)


def measured(name: str, llm: ChatKVFork, document: str, questions: list[str]) -> Iterator[Found]:
    """Time a fan-out, and a step of it on average; count what it reads."""
    before = llm.engine.stats()
    seconds, _ = timed(llm, document, questions)
    after = llm.engine.stats()
    steps = after.steps - before.steps
    pages = (after.pages_read - before.pages_read) / steps
    yield Found(
        f"fan-out {name}", seconds, prefilled=after.prefilled_tokens - before.prefilled_tokens
    )
    yield Found(f"step {name}", seconds / steps, pages=pages)


if __name__ == "__main__":
    serve(measure)
