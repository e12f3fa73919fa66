"""A prompt of `prefix` tokens beside four streams: how long their readers wait, and its own.

Once as an engine does it by default, and once with prompts in whole batches (`max_gap_ms=0`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from benchmarks.contestants.kvfork import make_llm
from benchmarks.job import Found, Job, serve
from benchmarks.measures.streams import Stream, read
from benchmarks.prompts import messages
from langgraph_kvfork import ChatKVFork

N_STREAMS = 4
TOKENS = 200
"""That each of them generates."""

N_ALONE = 40
"""Of these, before the prompt comes."""


def measure(job: Job) -> Iterator[Found]:
    for name, max_gap_ms in (("", None), (", in whole batches", 0.0)):
        gap = {} if max_gap_ms is None else {"max_gap_ms": max_gap_ms}
        llm = make_llm(job, n_ctx=job.prefix + 2048, **gap)
        alone, together, first = asyncio.run(beside(llm, job))
        llm.close()
        yield Found(f"longest gap before the prompt{name}", alone)
        yield Found(f"longest gap while it is computed{name}", together)
        yield Found(f"first token after the prompt{name}", first)


async def beside(llm: ChatKVFork, job: Job) -> tuple[float, float, float]:
    """Return the longest gaps without the prompt and with it, and its time to a first token."""
    readers = llm.model_copy(update={"max_tokens": TOKENS})
    asked = [messages("", question) for question in job.questions[:N_STREAMS]]
    reached = asyncio.Event()
    tasks = [
        asyncio.create_task(read(readers, one, n_tokens=N_ALONE, reached=reached)) for one in asked
    ]
    await reached.wait()
    n_before = N_ALONE // 2
    prompt = await read(llm, messages(job.document, job.questions[-1]))
    streams: list[Stream] = await asyncio.gather(*tasks)
    # the time of the prompt's first token is what divides the gaps
    begun = prompt.ends[0] - prompt.first
    alone = [gap for s in streams for gap in s.gaps[1:n_before]]
    together = [
        b - a
        for s in streams
        for a, b in zip(s.ends, s.ends[1:], strict=False)
        if b > begun and a < prompt.ends[0]
    ]
    if not together:
        raise RuntimeError("the streams had ended before the prompt was computed")
    return max(alone), max(together), prompt.first


if __name__ == "__main__":
    serve(measure)
