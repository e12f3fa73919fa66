"""Time to a branch's first token: on a prefilled document, and with a prefill of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator

from langchain_core.language_models import BaseChatModel

from benchmarks.job import Found, Job, serve
from benchmarks.prompts import messages


def measure(job: Job) -> Iterator[Found]:
    # each process has one of the two libraries
    if job.contestant == "stock":
        from benchmarks.contestants.llama_cpp_python import make_llm

        yield Found("own prefill", first_token(make_llm(job), job, job.questions[0]))
        return

    from benchmarks.contestants.kvfork import make_llm as make_kvfork

    llm = make_kvfork(job)
    llm.prefill(messages(job.document, "")[:1])
    first, *others = job.questions + job.more_questions
    for question in others:
        yield Found("forked", first_token(llm, job, question))
    alone = llm.model_copy(update={"share_prefix": False})
    yield Found("own prefill", first_token(alone, job, first))


def first_token(llm: BaseChatModel, job: Job, question: str) -> float:
    """Return the seconds until a model's stream yields something."""
    start = time.perf_counter()
    stream = llm.stream(messages(job.document, question))
    for _ in stream:
        return time.perf_counter() - start
    raise RuntimeError("a stream without a token")


if __name__ == "__main__":
    serve(measure)
