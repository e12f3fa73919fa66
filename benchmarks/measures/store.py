"""A store: how soon a prompt is back that was computed before, and what keeping it costs others.

"stock" is llama-server. It keeps prompts that lost their slot in host memory (`--cache-ram`), and
writes a slot to a file and reads it again when it is asked to. In all cases, the time is that of an
answer of one token.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from langchain_core.language_models import BaseChatModel

from benchmarks.job import Found, Job, serve
from benchmarks.measures.graph import timed
from benchmarks.prompts import messages

COMPUTED = "computed"
BACK = "back, after another prompt took its place"
FILE = "from a file"
COLD = "from a file that is not in memory"
"""A prompt, by where what was computed of it comes from."""

N_ROUNDS = 2
"""Of branches beside which their prefix is saved, or not."""

TOKENS = 128
"""Of each branch then: steps enough to save 7,000 tokens beside them, 64 at each."""

N_WORKING_SET = 8
N_CYCLES = 5


def measure(job: Job) -> Iterator[Found]:
    with tempfile.TemporaryDirectory() as folder:
        if job.contestant == "stock":
            yield from of_server(job, folder)
        else:
            yield from of_prompt(job, folder)
            yield from of_steps(job, folder)
            yield from of_working_set(job, folder)


def other(job: Job, number: int = 1) -> str:
    """Return another document of that length; prompts differ from its beginning on."""
    return f"Number {number}. {job.document}"


def answered(llm: BaseChatModel, document: str, question: str) -> float:
    """Return the seconds of an answer of one token."""
    start = time.perf_counter()
    llm.invoke(messages(document, question))
    return time.perf_counter() - start


def of_server(job: Job, folder: str) -> Iterator[Found]:
    from benchmarks.contestants.llama_server import chat_model, server

    question, later = job.questions[:2]
    with server(job, slots=1, unified=True, more=["--cache-ram", "8192"]) as url:
        llm = chat_model(job, url)
        answered(llm, "", question)  # brings the weights into memory
        yield Found(COMPUTED, answered(llm, job.document, question))
        answered(llm, other(job), question)
        yield Found(BACK, answered(llm, job.document, later))
    more = ["--cache-ram", "0", "--slot-save-path", folder]
    with server(job, slots=1, unified=True, more=more) as url:
        llm = chat_model(job, url)
        answered(llm, job.document, question)
        slot(url, "save")
        answered(llm, other(job), question)
        restored = slot(url, "restore")
        yield Found(FILE, restored + answered(llm, job.document, later))


def slot(url: str, action: str) -> float:
    """Let llama-server write its slot to a file, or read it; return the seconds."""
    start = time.perf_counter()
    request = urllib.request.Request(
        f"{url}/slots/0?action={action}",
        json.dumps({"filename": "slot.bin"}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        response.read()
    return time.perf_counter() - start


def of_prompt(job: Job, folder: str) -> Iterator[Found]:
    from benchmarks.contestants.kvfork import make_llm

    question, later = job.questions[:2]
    # as llama-server's one slot: there is room for one of the prompts
    options = {"n_ctx": job.branch_tokens, "cache_dir": folder}
    llm = make_llm(job, **options)
    yield Found(COMPUTED, answered(llm, job.document, question))
    answered(llm, other(job), question)
    llm.engine.save()
    yield Found(BACK, answered(llm, job.document, later))
    llm.close()
    llm = make_llm(job, **options)
    yield Found(FILE, answered(llm, job.document, later))
    llm.engine.save()
    llm.engine.clear()
    if hasattr(os, "posix_fadvise"):  # where it is not, nobody but the system decides
        forget_files(folder)
        yield Found(COLD, answered(llm, job.document, question))
    llm.close()


def forget_files(folder: str) -> None:
    """Let the system forget what of a store's files it has in memory."""
    for path in Path(folder).glob("*/*.kv"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def of_steps(job: Job, folder: str) -> Iterator[Found]:
    """Time steps of a fan-out while its document is being saved, and where there is no store."""
    from benchmarks.contestants.kvfork import make_llm

    n_ctx = job.pool_tokens + len(job.questions) * TOKENS
    options = {"n_ctx": n_ctx, "max_tokens": TOKENS}
    models = {
        "without a store": make_llm(job, **options),
        "with one": make_llm(job, **options, cache_dir=folder),
    }
    for number in range(N_ROUNDS):
        # in turn, and the other way round the next time
        for name, llm in list(models.items())[:: 1 if number % 2 else -1]:
            document = other(job, 10 + number)
            llm.engine.clear()
            llm.prefill(messages(document, "")[:1])  # which is written from now on
            seconds, _ = timed(llm, document, job.questions)
            what = f"{len(job.questions)} branches of {TOKENS} tokens, while their prefix is saved"
            yield Found(f"{what}, {name}", seconds)
            if llm.cache_dir:
                llm.engine.save()
    for llm in models.values():
        llm.close()


def of_working_set(job: Job, folder: str) -> Iterator[Found]:
    """Ask about eight documents in turn, again and again, with cells for a third of them."""
    from benchmarks.contestants.kvfork import make_llm

    # an eighth of the document: the set is to be too large for the cells, not for an hour
    short = job.document[: len(job.document) // 8]
    documents = [f"Number {100 + i}. {short}" for i in range(N_WORKING_SET)]
    n_tokens = (job.prefix // 8 + job.suffix) * N_WORKING_SET
    for name, cache_dir in (("without a store", ""), ("with one", folder)):
        llm = make_llm(job, n_ctx=n_tokens // 3, cache_dir=cache_dir)
        cycles = []
        for cycle in range(N_CYCLES):
            question = job.questions[cycle % len(job.questions)]
            cycles.append(sum(answered(llm, document, question) for document in documents))
        llm.close()
        what = f"{N_WORKING_SET} prompts in a third of their cells"
        yield Found(f"{what}, {N_CYCLES} rounds, {name}", sum(cycles))
        yield Found(f"{what}, a round after the first, {name}", sum(cycles[1:]) / (N_CYCLES - 1))


if __name__ == "__main__":
    serve(measure)
