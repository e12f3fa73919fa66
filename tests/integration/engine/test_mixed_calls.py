"""500 mixed calls on one engine: by threads and by tasks, some left early and some refused."""

import asyncio
import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from operator import add as add_up
from typing import Literal

import pytest
from helpers import idle, wait_until
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import HumanMessage, SystemMessage
from pydantic import BaseModel

from langgraph_kvfork import (
    ChatKVFork,
    ContextOverflowError,
    GenerationTimeoutError,
    InvalidRequestError,
    KVForkError,
)
from langgraph_kvfork.branches import dispatcher
from langgraph_kvfork.native.abi import EventType, Finish

SYSTEM = SystemMessage("You look after a house. Say what there is to say, in few words.")
ENDLESS = {"max_tokens": None, "ignore_eos": True}
IMAGE = HumanMessage([{"type": "image", "url": "https://example.org/cat.png"}])


class Light(BaseModel):
    """Switch a light."""

    on: bool


class Heat(BaseModel):
    """Set the heating."""

    degrees: Literal[18, 21]


REFUSED = [
    (InvalidRequestError, {"temperature": -1}),
    (InvalidRequestError, {"grammar": "root ::= ("}),
    (InvalidRequestError, {"tools": [Light], "tool_choice": "Heat"}),
    (InvalidRequestError, {"tools": [Light], "grammar": 'root ::= "x"'}),
    (InvalidRequestError, {"top_g": 1}),
    (InvalidRequestError, {"messages": [SYSTEM, IMAGE]}),
    (ContextOverflowError, {"messages": "word " * 6000}),
]


@dataclass(frozen=True)
class Planned:
    """One call: what it asks for, in which way, and how it is to end."""

    number: int
    asks: Literal["text", "anything", "tool", "object"]
    streams: bool
    asynchronous: bool
    ends: Literal["whole", "left", "refused"]
    luck: float  # from 0 to 1, for whatever else there is to choose

    def pick(self, choices):
        return choices[int(self.luck * len(choices))]


def plan(n: int) -> list[Planned]:
    dice = random.Random(n)
    asks = ("text", "anything", "tool", "object")
    ends = ("whole", "left", "refused")
    return [
        Planned(
            number,
            dice.choices(asks, weights=(3, 3, 2, 2))[0],
            dice.random() < 0.5,
            dice.random() < 0.5,
            dice.choices(ends, weights=(7, 2, 1))[0],
            dice.random(),
        )
        for number in range(n)
    ]


class Caller:
    """Makes the calls of a plan, and checks each one's result."""

    def __init__(self, llm):
        self.llm = llm
        self.usage = UsageMetadataCallbackHandler()  # of the calls that come to their end
        self.config = {"callbacks": [self.usage]}

    def run(self, call):
        runnable, messages, check = self._prepare(call)
        try:
            if call.ends == "left":
                result = self._leave(call, runnable, messages)
            elif call.streams:
                result = list(runnable.stream(messages, self.config))
            else:
                result = runnable.invoke(messages, self.config)
        except KVForkError as error:
            result = error
        check(result)

    async def arun(self, call):
        runnable, messages, check = self._prepare(call)
        try:
            if call.ends == "left":
                result = await self._aleave(call, runnable, messages)
            elif call.streams:
                result = [chunk async for chunk in runnable.astream(messages, self.config)]
            else:
                result = await runnable.ainvoke(messages, self.config)
        except (KVForkError, asyncio.CancelledError) as error:
            result = error
        check(result)

    def _leave(self, call, runnable, messages):
        if not call.streams:  # nobody can cancel a thread, so its time is over instead
            return runnable.invoke(messages, self.config, timeout=0.2 * call.luck)
        stream = runnable.stream(messages, self.config)
        for _ in range(1 + int(4 * call.luck)):
            next(stream)
        return stream.close()

    async def _aleave(self, call, runnable, messages):
        if not call.streams:
            task = asyncio.create_task(runnable.ainvoke(messages, self.config))
            await asyncio.sleep(0.2 * call.luck)
            task.cancel()
            return await task
        stream = runnable.astream(messages, self.config)
        for _ in range(1 + int(4 * call.luck)):
            await anext(stream)
        return await stream.aclose()

    def _prepare(self, call):
        """Return what to call, what to say to it, and what to do with the result."""
        messages = [SYSTEM, HumanMessage(f"Number {call.number % 40}: what now?")]
        if call.ends == "refused":
            expected, wrong = call.pick(REFUSED)
            kwargs = dict(wrong)
            messages = kwargs.pop("messages", messages)

            def is_refused(result):
                assert isinstance(result, expected), result

            return self.llm.bind(**kwargs), messages, is_refused
        if call.ends == "left":

            def is_left(result):
                if result is not None:  # what was streamed was taken
                    assert isinstance(
                        result,
                        asyncio.CancelledError if call.asynchronous else GenerationTimeoutError,
                    ), result

            return self.llm.bind(**ENDLESS), messages, is_left
        return getattr(self, f"_ask_for_{call.asks}")(call, messages)

    def _ask_for_text(self, call, messages):
        text = f"n° {call.number} 🏠"

        def is_the_text(result):
            message = whole_message(result, streams=call.streams)
            assert message.text == text
            assert message.response_metadata["finish_reason"] == "stop"

        return self.llm.bind(grammar=f'root ::= "{text}"'), messages, is_the_text

    def _ask_for_anything(self, call, messages):
        limit = 1 + int(8 * call.luck)

        def is_some_text(result):
            message = whole_message(result, streams=call.streams)
            reason = message.response_metadata["finish_reason"]
            n_tokens = message.usage_metadata["output_tokens"]
            assert n_tokens == limit if reason == "length" else 1 <= n_tokens <= limit
            assert reason in {"length", "stop"}
            assert not message.tool_calls

        runnable = self.llm.bind(max_tokens=limit, temperature=1, seed=call.number)
        return runnable, messages, is_some_text

    def _ask_for_tool(self, call, messages):
        choice = call.pick(["Light", "Heat", "any"])

        def is_a_call(result):
            message = whole_message(result, streams=call.streams)
            (made,) = message.tool_calls
            assert made["name"] == choice or choice == "any"
            assert {"Light": Light, "Heat": Heat}[made["name"]](**made["args"])
            assert made["id"]
            assert not message.invalid_tool_calls
            assert message.text == ""
            assert message.response_metadata["finish_reason"] == "tool_calls"

        tools = self.llm.bind_tools([Light, Heat], tool_choice=choice, parallel_tool_calls=False)
        return tools, messages, is_a_call

    def _ask_for_object(self, call, messages):
        schema = call.pick([Light, Heat, Light.model_json_schema(), Heat.model_json_schema()])
        method = call.pick(["json_schema", "function_calling"] * 2)

        def is_the_object(result):
            assert not isinstance(result, KVForkError), result
            answer = reduce(add_up, result) if call.streams else result
            assert answer["parsing_error"] is None
            parsed = answer["parsed"]
            assert isinstance(parsed, schema if isinstance(schema, type) else dict)
            model = Light if "on" in dict(parsed) else Heat
            assert model.model_validate(dict(parsed))
            assert answer["raw"].usage_metadata

        structured = self.llm.with_structured_output(schema, method=method, include_raw=True)
        return structured, messages, is_the_object


def whole_message(result, *, streams):
    """Return the message, which a stream's chunks add up to."""
    assert not isinstance(result, KVForkError), result
    if not streams:
        return result
    assert [c for c in result if c.usage_metadata] == [result[-1]]
    assert [c for c in result if c.chunk_position == "last"] == [result[-1]]
    message = reduce(add_up, result)
    assert message.text == "".join(chunk.text for chunk in result)
    for i, call in enumerate(message.tool_calls):
        pieces = [p["args"] for c in result for p in c.tool_call_chunks if p["index"] == i]
        assert json.loads("".join(pieces)) == call["args"]
    return message


@pytest.fixture
def last_words(monkeypatch):
    """What the engine says of each branch at its end: also of those that nobody listens to."""
    usages = []
    take = dispatcher._item

    def spy(event, cell_bytes):
        if event.type == EventType.DONE:
            usage = dispatcher._usage(event.branch_id, event.usage, cell_bytes)
            usages.append((Finish(event.finish), usage))
        return take(event, cell_bytes)

    monkeypatch.setattr(dispatcher, "_item", spy)
    return usages


async def run_all(calls, caller):
    """Run the calls, the sync ones in 16 threads and beside them 16 tasks of the others."""
    slots = asyncio.Semaphore(16)

    async def in_a_slot(call):
        async with slots:
            await caller.arun(call)

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(16) as pool:
        done = [
            in_a_slot(call) if call.asynchronous else loop.run_in_executor(pool, caller.run, call)
            for call in calls
        ]
        await asyncio.gather(*done)


# With room for all, no branch is ever preempted. Without, the youngest computes its prompt again.
@pytest.mark.parametrize(("n_calls", "n_ctx"), [(500, 4096), (50, 512)])
async def test_mixed_calls_do_not_notice_each_other(n_calls, n_ctx, last_words):
    llm = ChatKVFork(n_ctx=n_ctx, n_seq_max=24, temperature=0, timeout=120)
    calls = plan(n_calls)
    kinds = {(call.asks, call.streams, call.asynchronous) for call in calls if call.ends == "whole"}
    assert len(kinds) == 4 * 2 * 2 or n_calls < 500
    with llm.engine as engine:
        caller = Caller(llm)
        await run_all(calls, caller)
        wait_until(lambda: idle(engine) and not engine._dispatcher._mailboxes)
        stats = engine.stats()

        assert asyncio.all_tasks() == {asyncio.current_task()}
        engine.clear()
        assert engine.stats().cells_used == engine.stats().snapshots == 0

    ends = Counter(finish for finish, _ in last_words)
    planned = Counter(call.ends for call in calls)
    assert ends[Finish.STOP] + ends[Finish.LENGTH] == planned["whole"]
    # a call that was left before it had a branch has no last word
    assert 0 < ends[Finish.CANCELLED] <= planned["left"]
    assert ends.total() == planned["whole"] + ends[Finish.CANCELLED]

    # Answers' usage is what their callers pay for: a prompt once, however often it was computed.
    whole = [usage for finish, usage in last_words if finish is not Finish.CANCELLED]
    (told,) = caller.usage.usage_metadata.values()
    assert told["input_tokens"] == sum(usage.prompt_tokens for usage in whole)
    assert told["output_tokens"] == sum(usage.generated_tokens for usage in whole)
    details = told["input_token_details"]
    assert details["cache_read"] == sum(usage.forked_tokens for usage in whole)
    assert details["cache_read"] + details["cache_creation"] == told["input_tokens"]
    for usage in whole:
        if not usage.preemptions:
            assert usage.forked_tokens + usage.prefilled_tokens == usage.prompt_tokens

    # The engine's counters are what it did. That is more than the answers': what was cancelled was
    # computed until then, and what was preempted is computed or forked once more. A branch knows
    # how much it prefilled again, but of its forks it tells the first one only.
    every = [usage for _, usage in last_words]
    assert stats.generated_tokens == sum(usage.generated_tokens for usage in every)
    assert stats.prefilled_tokens == sum(usage.prefilled_tokens for usage in every)
    assert stats.preemptions == sum(usage.preemptions for usage in every)
    forked = sum(usage.forked_tokens for usage in every)
    if n_ctx == 4096:
        assert stats.preemptions == 0
        assert stats.forked_tokens == forked
    else:
        assert stats.preemptions > 0
        assert stats.evictions > 0
        assert stats.forked_tokens >= forked
