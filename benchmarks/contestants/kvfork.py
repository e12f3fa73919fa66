"""The graph on ChatKVFork, in its default mode or batch-invariant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.contestants import CONTESTANTS
from benchmarks.job import Found, Job, serve
from benchmarks.measures.graph import timed
from langgraph_kvfork import ChatKVFork


def make_llm(job: Job, **options: Any) -> ChatKVFork:
    """Return the chat model, warm, and with nothing in its cache."""
    arguments = {
        "model_path": job.model_path,
        "n_ctx": job.pool_tokens,
        "n_threads": job.threads,
        "flash_attn": True,
        "temperature": 0,
        "max_tokens": job.generate,
        "ignore_eos": True,
        "cache_dir": "",  # but where the store is what is measured
    }
    llm = ChatKVFork(**{**arguments, **CONTESTANTS[job.contestant].options, **options})
    llm.invoke("Hello", max_tokens=1)  # brings the weights into memory
    llm.engine.clear()
    return llm


def measure(job: Job) -> Iterator[Found]:
    llm = make_llm(job)
    for name, questions in (("first", job.questions), ("next", job.more_questions)):
        before = llm.engine.stats()
        seconds, _ = timed(llm, job.document, questions)
        after = llm.engine.stats()
        yield Found(
            name,
            seconds,
            prefilled=after.prefilled_tokens - before.prefilled_tokens,
            generated=after.generated_tokens - before.generated_tokens,
        )


if __name__ == "__main__":
    serve(measure)
