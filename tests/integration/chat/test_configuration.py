"""LangChain's ways to configure a model: bound and per-call arguments, fields and alternatives at
run time, rate limiter, cache, callbacks, copies."""

import copy
import pickle
import subprocess
import sys

import pytest
from helpers import call
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import ConfigurableField

from langgraph_kvfork import ChatKVFork, ContextOverflowError, InvalidRequestError

QUESTION = "What is the capital of France?"

both = pytest.mark.parametrize("asynchronous", [False, True])


def says(text):
    return f'root ::= "{text}"'


@both
async def test_a_call_overrides_what_is_bound_and_that_what_is_constructed(
    llm, engine, asynchronous
):
    async def tokens(model, **kwargs):
        answer = await call(model, QUESTION, asynchronous=asynchronous, **kwargs)
        return answer.usage_metadata["output_tokens"]

    model = llm.model_copy(update={"ignore_eos": True})
    bound = model.bind(max_tokens=3)
    assert await tokens(model) == 8
    assert await tokens(bound) == 3
    assert await tokens(bound, max_tokens=2) == 2
    assert await tokens(bound.bind(max_tokens=1)) == 1
    # stop strings come on top of each other instead
    stops = llm.model_copy(update={"stop": ["a"]}).bind(stop=["b"])
    for stopped, text in (("a", "xay"), ("b", "xby")):
        answer = await call(stops, QUESTION, grammar=says(text), asynchronous=asynchronous)
        assert answer.text == "x", stopped


@both
async def test_fields_are_configurable_at_run_time(llm, engine, asynchronous):
    model = llm.configurable_fields(
        max_tokens=ConfigurableField(id="length"),
        grammar=ConfigurableField(id="grammar"),
        n_ctx=ConfigurableField(id="pool"),
    )
    plain = await call(model, QUESTION, asynchronous=asynchronous)
    assert plain.usage_metadata["output_tokens"] <= 8
    config = {"configurable": {"length": 2}}
    short = await call(model, QUESTION, config, asynchronous=asynchronous)
    assert short.usage_metadata["output_tokens"] == 2
    configured = model.with_config(configurable={"grammar": says("yes"), "length": 8})
    assert (await call(configured, QUESTION, asynchronous=asynchronous)).text == "yes"
    # an engine's parameter names another engine
    config = {"configurable": {"pool": 256}}
    with pytest.raises(ContextOverflowError, match="n_ctx is 256"):
        await call(model, "word " * 300, config, asynchronous=asynchronous)
    llm.model_copy(update={"n_ctx": 256}).engine.close()
    with pytest.raises(ValueError, match="max_tokens"):
        await call(model, QUESTION, {"configurable": {"length": -2}}, asynchronous=asynchronous)


async def pieces(model, **kwargs):
    """Return how many pieces of text a stream has, each way."""
    there = [chunk for chunk in model.stream(QUESTION, **kwargs) if chunk.text]
    thither = [chunk async for chunk in model.astream(QUESTION, **kwargs) if chunk.text]
    return len(there), len(thither)


async def test_streaming_false_is_the_default_however_it_is_given(llm, engine):
    plain = await pieces(llm)
    assert min(plain) > 1
    assigned = llm.model_copy()
    assigned.streaming = False
    for model in (
        ChatKVFork(n_ctx=4096, temperature=0, max_tokens=8, streaming=False),
        llm.model_copy(update={"streaming": False}),
        assigned,
        pickle.loads(pickle.dumps(assigned)),
        copy.deepcopy(assigned),
        llm.configurable_fields(seed=ConfigurableField(id="seed")).with_config(
            configurable={"seed": 1}
        ),
    ):
        assert await pieces(model) == plain
    # what says so turns it off
    assert await pieces(llm.model_copy(update={"disable_streaming": True})) == (1, 1)


async def test_minus_one_is_no_limit(llm, engine):
    model = llm.model_copy(update={"max_tokens": -1, "stop": ["z"]})
    text = "y" * 20
    for bound in (model, llm.bind(max_tokens=-1), ChatKVFork(n_ctx=4096, max_tokens=-1)):
        answer = await bound.ainvoke(QUESTION, grammar=says(text))
        assert answer.text == text
        assert answer.response_metadata["finish_reason"] == "stop"


@both
async def test_models_are_alternatives_of_each_other(llm, engine, asynchronous):
    other = ChatKVFork(n_ctx=512, temperature=0, max_tokens=8, grammar=says("other"))
    model = llm.model_copy(update={"grammar": says("default")}).configurable_alternatives(
        ConfigurableField(id="model"), default_key="default", other=other
    )
    with other.engine:
        for name in ("default", "other"):
            config = {"configurable": {"model": name}}
            answer = await call(model, QUESTION, config, asynchronous=asynchronous)
            assert answer.text == name


class CountingLimiter(BaseRateLimiter):
    """Lets everybody pass and counts them."""

    def __init__(self):
        self.calls = []

    def acquire(self, *, blocking=True):
        self.calls.append("sync")
        return True

    async def aacquire(self, *, blocking=True):
        self.calls.append("async")
        return True


async def test_a_rate_limiter_is_asked_once_per_call(llm, engine):
    limiter = CountingLimiter()
    model = llm.model_copy(update={"rate_limiter": limiter, "max_tokens": 1})
    model.invoke(QUESTION)
    list(model.stream(QUESTION))
    assert limiter.calls == ["sync"] * 2
    await model.ainvoke(QUESTION)
    [chunk async for chunk in model.astream(QUESTION)]
    assert limiter.calls == ["sync"] * 2 + ["async"] * 2


@both
async def test_a_cache_answers_what_was_asked_before_and_only_that(llm, engine, asynchronous):
    model = llm.model_copy(update={"cache": InMemoryCache(), "max_tokens": 2})

    async def computed(runnable, **kwargs):
        before = engine.stats().generated_tokens
        await call(runnable, QUESTION, asynchronous=asynchronous, **kwargs)
        return engine.stats().generated_tokens - before

    assert await computed(model) == 2
    assert await computed(model) == 0
    # all that an answer depends on is a part of the key
    changes = {
        "temperature": (0.5, 0.6),
        "max_tokens": (1, 3),
        "seed": (1, 2),
        "stop": (["x"], ["y"]),
        "chat_template_kwargs": ({"a": 1}, {"a": 2}),
        "grammar": (says("x"), says("y")),
    }
    for name, (own, given) in changes.items():
        changed = model.model_copy(update={name: own})
        assert await computed(changed), name
        assert not await computed(changed), name
        assert await computed(model, **{name: given}), name
        assert not await computed(model, **{name: given}), name
        assert not await computed(model.bind(**{name: given})), name


class Recorder(BaseCallbackHandler):
    def __init__(self):
        self.events = []

    def on_chat_model_start(self, serialized, messages, **kwargs):
        self.events.append("start")

    def on_llm_new_token(self, token, **kwargs):
        self.events.append("token")

    def on_llm_end(self, response, **kwargs):
        self.events.append("end")

    def on_llm_error(self, error, **kwargs):
        self.events.append(type(error).__name__)


class AsyncRecorder(AsyncCallbackHandler):
    def __init__(self):
        self.events = []

    async def on_llm_new_token(self, token, **kwargs):
        self.events.append("token")

    async def on_llm_end(self, response, **kwargs):
        self.events.append("end")


async def test_callbacks_hear_of_every_call_and_of_every_chunk_once(llm, engine):
    own, given, anynchronous = Recorder(), Recorder(), AsyncRecorder()
    model = llm.model_copy(update={"callbacks": [own], "max_tokens": 3, "ignore_eos": True})
    model.invoke(QUESTION, {"callbacks": [given]})
    assert own.events == given.events == ["start", "end"]

    chunks = list(model.stream(QUESTION, {"callbacks": [given]}))
    assert given.events[2:] == ["start", *["token"] * len(chunks), "end"]
    achunks = [
        c async for c in model.astream(QUESTION, {"callbacks": [anynchronous]}) if c is not None
    ]
    assert anynchronous.events == ["token"] * len(achunks) + ["end"]
    assert len(achunks) == len(chunks)

    own.events.clear()
    model.model_copy(update={"streaming": True}).invoke(QUESTION)
    assert own.events[0] == "start"
    assert own.events[-1] == "end"
    assert own.events.count("token") == len(chunks)

    own.events.clear()
    with pytest.raises(InvalidRequestError):
        model.invoke(QUESTION, grammar="root ::= (")
    assert own.events == ["start", "InvalidRequestError"]


def test_copies_share_the_engine(llm, engine):
    for twin in (
        copy.copy(llm),
        copy.deepcopy(llm),
        llm.model_copy(),
        llm.model_copy(deep=True),
        pickle.loads(pickle.dumps(llm)),
        llm.model_copy(update={"temperature": 1.0}),
        ChatKVFork(**llm.model_dump(exclude_unset=True)),
    ):
        assert twin is not llm
        assert twin.engine is engine
        assert twin.invoke(QUESTION, grammar=says("x")).text == "x"


def test_a_pickle_works_in_another_process(llm):
    program = (
        "import pickle, sys\n"
        "llm = pickle.load(sys.stdin.buffer)\n"
        "print(llm.invoke('Hello', grammar='root ::= \"over there\"').text)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, input=pickle.dumps(llm), capture_output=True)
    assert done.stdout.decode().strip() == "over there", done.stderr
