"""Batch-invariant mode on a real model: a branch writes the same text alone and beside others."""

import asyncio
import random

import pytest
from helpers import idle, wait_until

from langgraph_kvfork import ChatKVFork, Engine, EngineParams, InvalidRequestError, Request

N_PROMPTS, N_TOKENS = 64, 48
REQUEST = Request(temperature=0, max_tokens=N_TOKENS, ignore_eos=True)


@pytest.fixture
def make_engine(llm):
    engines = []

    def make(**params):
        params = {"model_path": llm.engine.params.model_path, "n_ctx": 4096, **params}
        engines.append(Engine(EngineParams(batch_invariant=True, **params)))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def prompts(rng, excerpt):
    """Beginnings of one text, of random lengths, with questions of random lengths behind."""
    words = excerpt[0].content.split()
    return [
        " ".join(words[: rng.randrange(2, 60)] + rng.choices(words, k=rng.randrange(1, 20)))
        for _ in range(N_PROMPTS)
    ]


def text(engine, prompt):
    with engine.generate(prompt, REQUEST) as branch:
        return [event.token for event in branch if hasattr(event, "token")]


async def atext(engine, prompt, delay):
    await asyncio.sleep(delay)
    branch = engine.agenerate(prompt, REQUEST)
    return [event.token async for event in branch if hasattr(event, "token")]


async def test_64_prompts_in_random_company_say_what_they_say_alone(make_engine, excerpt):
    rng = random.Random(1)
    asked = prompts(rng, excerpt)
    lonely, busy = make_engine(n_threads=1), make_engine(n_threads=2, n_batch=100)
    together = []
    while len(together) < len(asked):
        group = asked[len(together) : len(together) + rng.randrange(1, 17)]
        answers = (atext(busy, prompt, rng.random() / 2) for prompt in group)
        together += await asyncio.gather(*answers)
    alone = []
    for prompt in asked:
        lonely.clear()
        alone.append(text(lonely, prompt))
    assert together == alone
    assert len({tuple(tokens) for tokens in alone}) > N_PROMPTS // 2  # they do say something
    assert busy.stats().steps < N_PROMPTS * N_TOKENS  # together


def test_a_fork_of_a_running_branch_says_what_the_branch_says(make_engine):
    engine = make_engine()
    with engine.generate("The quick brown fox", REQUEST) as branch:
        events = iter(branch)
        while not hasattr(next(events), "token"):
            pass
        fork = branch.fork()
        rest = [event.token for event in events if hasattr(event, "token")]
        forked = [event.token for event in fork if hasattr(event, "token")]
    assert 0 < len(forked) < N_TOKENS
    assert rest[-len(forked) :] == forked
    wait_until(lambda: idle(engine))


def test_the_chat_model_takes_it():
    llm = ChatKVFork(batch_invariant=True, n_ctx=1024, temperature=0, max_tokens=4)
    assert llm.engine.params.batch_invariant
    assert llm.engine is not ChatKVFork(n_ctx=1024).engine
    assert llm.invoke("Say hello.").text
    llm.engine.close()


def test_it_is_refused_in_words_where_it_cannot_be(make_engine):
    with pytest.raises(InvalidRequestError, match=r"batch_invariant: .*flash attention"):
        make_engine(flash_attn=False)
