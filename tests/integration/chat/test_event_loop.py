"""What the model does in an event loop never holds it up."""

import asyncio
import threading

import pytest
from blockbuster import blockbuster_ctx
from helpers import prompt_tokens
from langchain_core.messages import HumanMessage

from langgraph_kvfork import ChatKVFork, Engine, ForkNode, PrefillNode


@pytest.fixture
def strict():
    """Everything that may block raises in an event loop."""
    with blockbuster_ctx() as detector:
        yield detector


@pytest.fixture
def cold():
    return ChatKVFork(n_ctx=512, temperature=0, max_tokens=2)


async def test_neither_loading_nor_calling_blocks(cold, strict):
    llm = cold
    state = {"messages": [HumanMessage("Hello.")]}
    await llm.ainvoke("Hello.")
    assert [chunk async for chunk in llm.astream("Hello.")]
    await llm.aprefill("Hello.")
    await llm.bind_tools([{"name": "add", "parameters": {}}], tool_choice="add").ainvoke("Add.")
    await PrefillNode(llm).ainvoke(state)
    await ForkNode(llm, ["Why?", "How?"]).ainvoke(state)
    await asyncio.to_thread(lambda: llm.engine.close())


async def test_prompts_are_tokenized_beside_it_and_start_in_order(llm, engine, monkeypatch):
    threads = set()
    tokenize = Engine.tokenize

    def watched(self, *args, **kwargs):
        threads.add(threading.current_thread())
        return tokenize(self, *args, **kwargs)

    monkeypatch.setattr(Engine, "tokenize", watched)
    prompts = ["long " * (400 - 40 * i) for i in range(8)]
    answers = await asyncio.gather(*(llm.ainvoke(prompt, max_tokens=1) for prompt in prompts))
    await llm.aprefill("Hello.")
    assert threads
    assert threading.current_thread() not in threads
    branches = [answer.response_metadata["fork"]["branch_id"] for answer in answers]
    assert branches == sorted(branches)
    assert answers[0].usage_metadata["input_tokens"] == len(
        prompt_tokens(engine, [HumanMessage(prompts[0])])
    )
