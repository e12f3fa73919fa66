"""The chat model on a real model: all ways to call it, what it tells, and its errors."""

import asyncio
import math
import threading
from itertools import islice

import pytest
from helpers import call, wait_until
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGenerationChunk

from langgraph_kvfork import (
    BranchCancelledError,
    BranchEndedError,
    ChatKVFork,
    ContextOverflowError,
    Done,
    Engine,
    EngineClosedError,
    EngineParams,
    GenerationTimeoutError,
    InvalidRequestError,
    ModelLoadError,
    Request,
    Token,
)
from langgraph_kvfork.engine.default_model import smollm2_path

QUESTION = "What is the capital of France?"
COUNT = Request(temperature=0, max_tokens=None, ignore_eos=True)


async def test_all_ways_to_call_it_give_the_same_greedy_text(llm, engine):
    short = llm.model_copy(update={"max_tokens": 5})

    def cold():
        # like for like: each call computes the same batches
        engine.clear()
        return short

    expected = cold().invoke(QUESTION).text
    assert expected
    assert (await cold().ainvoke(QUESTION)).text == expected
    assert "".join(chunk.text for chunk in cold().stream(QUESTION)) == expected
    assert "".join([chunk.text async for chunk in cold().astream(QUESTION)]) == expected
    assert [m.text for m in cold().batch([QUESTION])] == [expected]
    assert [m.text for m in await cold().abatch([QUESTION])] == [expected]
    assert cold().invoke(QUESTION, stream=True).text == expected


async def test_batches_keep_their_order(llm, engine):
    words = ["alpha", "beta", "gamma", "delta"]
    grammars = [f'root ::= "{word}"' for word in words]
    questions = ["Say a word."] * len(words)
    bound = [llm.bind(grammar=grammar) for grammar in grammars]
    texts = await asyncio.gather(*(m.ainvoke(q) for m, q in zip(bound, questions, strict=True)))
    assert [m.text for m in texts] == words
    assert len(llm.batch(questions)) == len(await llm.abatch(questions)) == len(words)


async def test_usage_and_metadata_come_once_and_say_the_same_in_streams(llm, engine):
    message = llm.invoke(QUESTION, ignore_eos=True)
    chunks = list(llm.stream(QUESTION, ignore_eos=True))
    achunks = [chunk async for chunk in llm.astream(QUESTION, ignore_eos=True)]
    for stream in (chunks, achunks):
        assert [c for c in stream if c.usage_metadata] == [stream[-1]]
        assert [c for c in stream if c.response_metadata.get("model_name")] == [stream[-1]]
        assert stream[-1].chunk_position == "last"
        merged = generate_from_stream(iter([ChatGenerationChunk(message=c) for c in stream]))
        total = merged.generations[0].message.usage_metadata
        assert total["output_tokens"] == llm.max_tokens
        assert total["input_token_details"]["cache_read"] == total["input_tokens"] - 1

    n_prompt = llm.get_num_tokens_from_messages([HumanMessage(QUESTION)])
    assert message.usage_metadata == {
        "input_tokens": n_prompt,
        "output_tokens": llm.max_tokens,
        "total_tokens": n_prompt + llm.max_tokens,
        "input_token_details": {"cache_read": 0, "cache_creation": n_prompt},
        "output_token_details": {"reasoning": 0},
    }
    metadata = message.response_metadata
    assert metadata["model_name"] == "SmolLM2-135M-Instruct.Q4_1"
    assert metadata["model_provider"] == "kvfork"
    assert metadata["finish_reason"] == "length"
    assert metadata["timings"]["prefill_ms"] > 0
    assert metadata["timings"]["decode_tokens_per_second"] > 0
    fork = metadata["fork"]
    assert fork.pop("branch_id") > 0
    assert fork == {
        "parent_id": None,
        "forked_tokens": 0,
        "prefilled_tokens": n_prompt,
        "cell_bytes": 23_040,
    }
    assert chunks[-1].response_metadata["fork"]["parent_id"] > 0


def test_a_stop_string_ends_the_text_and_is_no_part_of_it(llm, engine):
    text = llm.invoke(QUESTION, grammar='root ::= "one two three"').text
    assert text == "one two three"
    stopped = llm.invoke(QUESTION, stop=["two"], grammar='root ::= "one two three"')
    assert stopped.text == "one "
    assert stopped.response_metadata["finish_reason"] == "stop"


def test_max_tokens_and_finish_reasons(llm, engine):
    short = llm.invoke(QUESTION, max_tokens=2)
    assert short.usage_metadata["output_tokens"] == 2
    assert short.response_metadata["finish_reason"] == "length"
    ended = llm.invoke(QUESTION, grammar='root ::= "Paris"')
    assert ended.text == "Paris"
    assert ended.response_metadata["finish_reason"] == "stop"


def test_log_probabilities_have_langchains_shape(llm, engine):
    message = llm.invoke(QUESTION, max_tokens=3, logprobs=True, top_logprobs=2)
    content = message.response_metadata["logprobs"]["content"]
    assert len(content) == 3
    assert "".join(entry["token"] for entry in content) == message.text
    for entry in content:
        assert bytes(entry["bytes"]).decode() == entry["token"]
        first, second = entry["top_logprobs"]
        # greedy takes the most likely one
        assert first["token"] == entry["token"]
        assert math.isclose(first["logprob"], entry["logprob"])
        assert second["logprob"] <= first["logprob"] < 0
    bare = llm.invoke(QUESTION, max_tokens=1, logprobs=True)
    assert bare.response_metadata["logprobs"]["content"][0]["top_logprobs"] == []
    assert "logprobs" not in llm.invoke(QUESTION, max_tokens=1).response_metadata


def test_a_seed_makes_sampling_reproducible(llm, engine):
    def sample(seed):
        engine.clear()
        options = {"temperature": 1.5, "top_p": 1, "min_p": 0, "max_tokens": 6, "seed": seed}
        return llm.invoke("Tell me a story.", **options).text

    assert sample(7) == sample(7)
    assert len({sample(1), sample(2), sample(3)}) > 1
    # none: a random one
    assert len({sample(None) for _ in range(3)}) > 1


def test_logit_bias_forbids_a_token(llm, engine):
    entry = llm.invoke(QUESTION, max_tokens=1, logprobs=True).response_metadata["logprobs"]
    token = entry["content"][0]["token"]
    (token_id,) = llm.get_token_ids(token)
    assert llm.invoke(QUESTION, max_tokens=1, logit_bias={token_id: -math.inf}).text != token


async def test_a_conversation_goes_on_from_its_last_turn(llm, engine):
    first = llm.invoke(QUESTION)
    turns = [HumanMessage(QUESTION), AIMessage(first.content), HumanMessage("And of Spain?")]
    second = llm.invoke(turns)
    read = second.usage_metadata["input_token_details"]["cache_read"]
    assert read >= first.usage_metadata["input_tokens"]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_wrong_requests_have_their_own_errors(llm, engine, asynchronous):
    image = [HumanMessage([{"type": "image_url", "image_url": {"url": "x"}}])]
    steps = engine.stats().steps
    with pytest.raises(InvalidRequestError, match="grammar"):
        await call(llm, QUESTION, grammar="root ::= (", asynchronous=asynchronous)
    with pytest.raises(ContextOverflowError, match="n_ctx"):
        await call(llm, "word " * 6000, asynchronous=asynchronous)
    with pytest.raises(InvalidRequestError, match="image"):
        await call(llm, image, asynchronous=asynchronous)
    with pytest.raises(InvalidRequestError, match="logit_bias"):
        await call(llm, QUESTION, logit_bias={10**6: 1.0}, asynchronous=asynchronous)
    assert engine.stats().steps == steps


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_call_that_takes_too_long_is_cancelled(llm, engine, asynchronous):
    endless = llm.model_copy(update={"max_tokens": None, "ignore_eos": True})
    with pytest.raises(GenerationTimeoutError, match=r"timeout=0\.2"):
        await call(endless, QUESTION, timeout=0.2, asynchronous=asynchronous)


def test_engines_are_shared_by_parameters(llm, engine):
    assert ChatKVFork(n_ctx=4096, temperature=1).engine is engine
    assert Engine.get(EngineParams(smollm2_path(), n_ctx=4096)) is engine


async def test_many_who_ask_for_a_cold_engine_get_one():
    params = EngineParams(smollm2_path(), n_ctx=256)
    engines = await asyncio.gather(*(Engine.aget(params) for _ in range(20)))
    assert len(set(engines)) == 1
    engines[0].close()
    with pytest.raises(EngineClosedError):
        engines[0].stats()
    # a closed engine makes room for a new one
    with Engine.get(params) as engine:
        assert engine is not engines[0]


async def test_closing_an_engine_ends_everybody_who_waits():
    engine = Engine(EngineParams(smollm2_path(), n_ctx=512))
    errors = []

    def wait():
        try:
            list(engine.generate("Once upon a time", COUNT))
        except EngineClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    branch = engine.agenerate("There was a man", COUNT)
    await anext(branch)
    wait_until(lambda: engine.stats().branches_running == 2)
    await asyncio.to_thread(engine.close)
    with pytest.raises(EngineClosedError):
        async for _ in branch:
            pass
    thread.join(10)
    assert len(errors) == 1
    engine.close()


def test_a_damaged_model_file_is_refused_in_words(tmp_path):
    path = tmp_path / "model.gguf"
    with open(smollm2_path(), "rb") as file:  # noqa: PTH123
        path.write_bytes(file.read(3_000_000))
    with pytest.raises(ModelLoadError, match="incomplete"):
        ChatKVFork(model_path=str(path)).invoke(QUESTION)


def test_a_running_branch_can_be_forked(engine):
    request = Request(temperature=0, max_tokens=24, ignore_eos=True)
    prompt = "The quick brown fox"
    with engine.generate(prompt, request) as branch:
        said = list(islice((e for e in branch if isinstance(e, Token)), 4))
        fork = branch.fork()
        said += [e for e in branch if isinstance(e, Token)]
        forked = list(fork)
    # it was forked where it was by then: with what it had said as a prompt, and the rest to say
    usage = forked[-1].usage
    n_said = usage.prompt_tokens - len(engine.tokenize(prompt))
    assert 4 <= n_said < len(said) == 24
    assert usage.generated_tokens == 24 - n_said == sum(isinstance(e, Token) for e in forked)
    assert usage.forked_tokens >= usage.prompt_tokens - 1
    assert isinstance(branch, type(fork))
    with pytest.raises((BranchEndedError, BranchCancelledError)):
        list(branch.fork())


def test_a_branch_that_is_dropped_stops(engine):
    branch = engine.generate("Once upon a time", COUNT)
    next(branch)
    del branch
    wait_until(lambda: engine.stats().branches_running == 0)


def test_prefill_reports_progress_and_counts(llm, engine, excerpt):
    progress = []
    before = engine.stats().prefilled_tokens
    usage = llm.prefill(excerpt, on_progress=progress.append)
    assert usage.prompt_tokens == usage.prefilled_tokens
    assert usage.prompt_tokens == engine.stats().prefilled_tokens - before
    assert progress[-1].done == progress[-1].total == usage.prompt_tokens
    # nothing is left to do
    assert llm.prefill(excerpt).prefilled_tokens <= 1


def test_tokens_and_text_turn_into_each_other(engine):
    text = "Grüße, 世界! 🎉 <|im_start|>\0"
    tokens = engine.tokenize(text, add_special=False, parse_special=False)
    assert engine.detokenize(tokens) == text
    assert len(engine.tokenize("<|im_start|>", add_special=False)) == 1
    with pytest.raises(InvalidRequestError, match="token=-1"):
        engine.detokenize([-1])


def test_done_is_the_last_event(engine):
    events = list(engine.generate("Hello", Request(max_tokens=2)))
    assert [e for e in events if isinstance(e, Done)] == [events[-1]]
    assert events[-1].usage.generated_tokens <= 2
