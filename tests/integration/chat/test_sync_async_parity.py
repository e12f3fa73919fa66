"""Every public call exists in both worlds and says the same in both."""

import inspect
from types import SimpleNamespace

import pytest
from helpers import await_until, idle
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration
from langchain_core.prompt_values import ChatPromptValue

from langgraph_kvfork import (
    AsyncBranch,
    Branch,
    ChatKVFork,
    ContextOverflowError,
    Done,
    Engine,
    EngineParams,
    ForkNode,
    GenerationTimeoutError,
    InvalidRequestError,
    PrefillNode,
    Request,
    Token,
)
from langgraph_kvfork.engine.default_model import smollm2_path

QUESTION = "What is the capital of France?"
MESSAGES = [HumanMessage(QUESTION)]
OPTIONS = {"max_tokens": 5, "ignore_eos": True}
ENDLESS = {"max_tokens": None, "ignore_eos": True}


async def parallel(iterator):
    return [item async for item in iterator]


# by class and name: how to call it; what it gives is compared after `plain`
CALLS = {
    ("llm", "invoke"): ((QUESTION,), OPTIONS),
    ("llm", "stream"): ((QUESTION,), OPTIONS),
    ("llm", "batch"): (([QUESTION],), OPTIONS),
    ("llm", "batch_as_completed"): (([QUESTION],), OPTIONS),
    ("llm", "generate"): (([MESSAGES],), OPTIONS),
    ("llm", "generate_prompt"): (([ChatPromptValue(messages=MESSAGES)],), OPTIONS),
    ("llm", "transform"): ((QUESTION,), OPTIONS),
    ("llm", "stream_events"): ((QUESTION,), {"version": "v3", **OPTIONS}),
    ("llm", "prefill"): ((MESSAGES,), {}),
    ("engine", "prefill"): ((QUESTION,), {}),
    ("engine", "generate"): ((QUESTION, Request(max_tokens=5, temperature=0, logprobs=2)), {}),
    ("fork", "invoke"): (({"messages": MESSAGES},), {}),
    ("fork", "stream"): (({"messages": MESSAGES},), {}),
    ("fork", "batch"): (([{"messages": MESSAGES}],), {}),
    ("fork", "batch_as_completed"): (([{"messages": MESSAGES}],), {}),
    ("fork", "transform"): (({"messages": MESSAGES},), {}),
    ("prefill", "invoke"): (({"messages": MESSAGES},), {}),
    ("prefill", "stream"): (({"messages": MESSAGES},), {}),
    ("prefill", "batch"): (([{"messages": MESSAGES}],), {}),
    ("prefill", "batch_as_completed"): (([{"messages": MESSAGES}],), {}),
    ("prefill", "transform"): (({"messages": MESSAGES},), {}),
}
CLASSES = {"llm": ChatKVFork, "engine": Engine, "fork": ForkNode, "prefill": PrefillNode}
ELSEWHERE = {
    ("engine", "get"): "below",
    ("engine", "used"): "test_engine_lifetimes.py",
    ("llm", "load"): "test_engine_lifetimes.py",
    ("llm", "close"): "test_engine_lifetimes.py",
    ("fork", "stream_events"): "LangChain has v3 for chat models only",
    ("prefill", "stream_events"): "LangChain has v3 for chat models only",
}


def pairs(cls):
    names = {name for name in dir(cls) if not name.startswith("_")}
    return {name for name in names if f"a{name}" in names}


def test_every_pair_of_calls_is_compared():
    found = {(key, name) for key, cls in CLASSES.items() for name in pairs(cls)}
    assert found == CALLS.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("cls", [*CLASSES.values(), (Branch, AsyncBranch)])
def test_signatures_are_the_same(cls):
    if isinstance(cls, tuple):
        sync, asynchronous = cls
        own = {n for n in vars(Branch.__mro__[1]) | vars(sync) if not n.startswith("_")}
        compared = [(getattr(sync, n), getattr(asynchronous, n)) for n in own]
        assert len(compared) == 3  # cancel, ended, fork
        compared = [pair for pair in compared if callable(pair[0])]
    else:
        own = {name for name in pairs(cls) if name in vars(cls)}
        compared = [(getattr(cls, name), getattr(cls, f"a{name}")) for name in own]
        assert compared
    for one, other in compared:
        parameters = [inspect.signature(f).parameters.values() for f in (one, other)]
        assert [(p.name, p.kind, p.default) for p in parameters[0]] == [
            (p.name, p.kind, p.default) for p in parameters[1]
        ]


@pytest.fixture
def objects(llm, engine):
    nodes = {"a": "Say yes."}  # of several, either may be the one that the others fork
    return {
        "llm": llm,
        "engine": engine,
        "fork": ForkNode(llm, nodes),
        "prefill": PrefillNode(llm),
    }


def plain(value):
    """Reduce a result to what does not differ from run to run."""
    if isinstance(value, BaseMessage):
        metadata = dict(value.response_metadata)
        metadata.pop("timings", None)
        metadata.pop("fork", None)
        kind = type(value).__name__
        return kind, value.content, plain(value.usage_metadata), plain(metadata), value.tool_calls
    if isinstance(value, ChatGeneration):
        return plain(value.message)
    if isinstance(value, Done):
        return value.finish_reason, value.usage.prompt_tokens, value.usage.generated_tokens
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "token"):
        return [plain(item) for item in value]
    if hasattr(value, "generations"):
        return plain(value.generations)
    if hasattr(value, "prefilled_tokens"):
        return value.prompt_tokens, value.prefilled_tokens, value.forked_tokens
    return value


@pytest.mark.parametrize(("owner", "name"), CALLS)
async def test_both_give_the_same(objects, engine, owner, name):
    args, kwargs = CALLS[owner, name]
    thing = objects[owner]

    def items():
        yield from args

    async def aitems():
        for arg in args:
            yield arg

    engine.clear()
    result = getattr(thing, name)(*((items(),) if name == "transform" else args), **kwargs)
    if name == "stream_events":
        sync = plain(result.output)
    else:
        sync = plain(list(result) if hasattr(result, "__next__") else result)

    engine.clear()
    result = getattr(thing, f"a{name}")(*((aitems(),) if name == "transform" else args), **kwargs)
    if inspect.isawaitable(result):
        result = await result
    if name == "stream_events":
        asynchronous = plain(await result.output)
    else:
        asynchronous = plain(await parallel(result) if hasattr(result, "__anext__") else result)

    assert sync == asynchronous
    assert sync not in (None, [], {}, "") or owner == "prefill"


@pytest.mark.parametrize("stop", [None, ["two"]])
async def test_grammars_and_stop_strings(llm, engine, stop):
    kwargs = {"grammar": 'root ::= "one two three"', "max_tokens": 32, "stop": stop}
    texts = {
        llm.invoke(QUESTION, **kwargs).text,
        (await llm.ainvoke(QUESTION, **kwargs)).text,
        "".join(chunk.text for chunk in llm.stream(QUESTION, **kwargs)),
        "".join([chunk.text async for chunk in llm.astream(QUESTION, **kwargs)]),
    }
    assert texts == {"one " if stop else "one two three"}


@pytest.mark.parametrize(
    ("prompt", "kwargs", "kind"),
    [
        ("word " * 6000, {}, ContextOverflowError),
        (QUESTION, {"grammar": "root ::= ("}, InvalidRequestError),
        (QUESTION, {"temperature": -1}, InvalidRequestError),
        (QUESTION, {"no_such_thing": 1}, InvalidRequestError),
        (
            QUESTION,
            {"timeout": 0.05, "max_tokens": None, "ignore_eos": True},
            GenerationTimeoutError,
        ),
        ([], {}, InvalidRequestError),
    ],
)
async def test_both_fail_alike(llm, engine, prompt, kwargs, kind):
    errors = []

    async def collect(run):
        with pytest.raises(kind) as raised:
            await run()
        errors.append(str(raised.value))

    async def sync_invoke():
        llm.invoke(prompt, **kwargs)

    async def sync_stream():
        list(llm.stream(prompt, **kwargs))

    await collect(sync_invoke)
    await collect(lambda: llm.ainvoke(prompt, **kwargs))
    await collect(sync_stream)
    await collect(lambda: parallel(llm.astream(prompt, **kwargs)))
    assert len(set(errors)) == 1
    await await_until(lambda: idle(engine))


async def test_engines_are_the_same(engine, llm):
    params = EngineParams(smollm2_path(), n_ctx=4096)
    assert Engine.get(params) is await Engine.aget(params) is engine
    for broken in (EngineParams("/nonexistent.gguf"), EngineParams(__file__)):
        with pytest.raises(Exception) as one:  # noqa: PT011 - compared with the other
            Engine.get(broken)
        with pytest.raises(type(one.value)) as other:
            await Engine.aget(broken)
        assert str(one.value) == str(other.value)


async def test_branches_do_the_same(engine):
    request = Request(max_tokens=12, temperature=0, ignore_eos=True)

    def texts(events):
        return [event.token for event in events if isinstance(event, Token)]

    seen = []
    for asynchronous in (False, True):
        engine.clear()
        record = SimpleNamespace()
        if asynchronous:
            async with engine.agenerate(QUESTION, request) as branch:
                record.tokens = texts(await parallel(branch))
                record.ended = branch.ended
            cancelled = engine.agenerate(QUESTION, Request(max_tokens=None, ignore_eos=True))
            await anext(cancelled)
            cancelled.cancel()
            with pytest.raises(Exception) as error:  # noqa: PT011 - compared with the other
                await parallel(cancelled)
        else:
            with engine.generate(QUESTION, request) as branch:
                record.tokens = texts(branch)
                record.ended = branch.ended
            cancelled = engine.generate(QUESTION, Request(max_tokens=None, ignore_eos=True))
            next(cancelled)
            cancelled.cancel()
            with pytest.raises(Exception) as error:  # noqa: PT011 - compared with the other
                list(cancelled)
        record.error = type(error.value), str(error.value)
        seen.append(record)
    assert seen[0] == seen[1]
    assert len(seen[0].tokens) == 12
