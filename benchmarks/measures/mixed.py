"""A mixed load: short questions, long documents, and agents whose conversations grow.

"stock" is llama-server, with a slot for each client. A client asks when it has its answer, and all
of them at the same time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from benchmarks.job import Found, Job, serve
from benchmarks.measures.streams import Stream, percentile, read
from benchmarks.prompts import messages

N_EACH = {"short": 4, "long": 2, "agent": 2}
"""Clients."""

N_ASKED = {"short": 6, "long": 2, "agent": 4}
"""Requests of one client."""

PERCENTS = (50, 90, 99)

Client = Callable[[BaseChatModel, Job, int], Awaitable[list[Stream]]]


async def short(llm: BaseChatModel, job: Job, number: int) -> list[Stream]:
    """Ask questions that have nothing in common but the system prompt."""
    asked = (job.questions + job.more_questions)[number :: N_EACH["short"]]
    return [await read(llm, messages("", asked[i % len(asked)])) for i in range(N_ASKED["short"])]


async def long(llm: BaseChatModel, job: Job, number: int) -> list[Stream]:
    """Ask about documents, each of which is another one."""
    return [
        await read(llm, messages(f"Number {number}-{i}. {job.document}", job.questions[i]))
        for i in range(N_ASKED["long"])
    ]


async def agent(llm: BaseChatModel, job: Job, number: int) -> list[Stream]:
    """Go on with a conversation that begins with a part of the document."""
    said: list[BaseMessage] = messages(
        f"Agent {number}. {job.document[: len(job.document) // 4]}", job.questions[number]
    )
    streams = []
    for turn in range(N_ASKED["agent"]):
        streams.append(await read(llm, said))
        said += [AIMessage(streams[-1].text), HumanMessage(job.more_questions[turn])]
    return streams


CLIENTS: dict[str, Client] = {"short": short, "long": long, "agent": agent}


def measure(job: Job) -> Iterator[Found]:
    n_clients = sum(N_EACH.values())
    with ExitStack() as stack:
        llm: BaseChatModel
        if job.contestant == "stock":
            from benchmarks.contestants.llama_server import make_llm as make_server

            llm = stack.enter_context(make_server(job, slots=n_clients))
        else:
            from benchmarks.contestants.kvfork import make_llm

            llm = make_llm(job, n_ctx=n_clients * job.branch_tokens)
        start = time.perf_counter()
        streams = asyncio.run(load(llm, job))
        seconds = time.perf_counter() - start
    tokens = sum(len(stream.ends) for of_kind in streams.values() for stream in of_kind)
    yield Found("all of it", seconds, generated=tokens)
    yield Found("a token, all of it by all tokens", seconds / tokens)
    for kind, of_kind in streams.items():
        for percent in PERCENTS[:2]:
            first = percentile((stream.first for stream in of_kind), percent)
            yield Found(f"first token, {kind}, {percent} %", first)
    gaps = [gap for of_kind in streams.values() for stream in of_kind for gap in stream.gaps]
    for percent in PERCENTS:
        yield Found(f"gap between tokens, {percent} %", percentile(gaps, percent))
    yield Found("gap between tokens, longest", max(gaps))


async def load(llm: BaseChatModel, job: Job) -> dict[str, list[Stream]]:
    """Let all clients ask; return the streams of each kind."""

    async def of_kind(kind: str) -> list[Stream]:
        clients = [CLIENTS[kind](llm, job, number) for number in range(N_EACH[kind])]
        return [stream for streams in await asyncio.gather(*clients) for stream in streams]

    return dict(zip(CLIENTS, await asyncio.gather(*map(of_kind, CLIENTS)), strict=True))


if __name__ == "__main__":
    serve(measure)
