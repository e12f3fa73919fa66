"""Counted, not timed: what a plain LangGraph graph computes of its branches' prompts."""

import asyncio
import operator
import os.path
from typing import Annotated, TypedDict

import pytest
from helpers import Counter
from langchain_core.messages import AnyMessage, HumanMessage
from langgraph.graph import END, START, StateGraph

from langgraph_kvfork import ForkNode, PrefillNode, PrefillProgress, Request, Token

QUESTIONS = {
    "permissions": "What does this license allow me to do?",
    "conditions": "What must I do when I give copies to others?",
    "patents": "What does this license say about patents?",
    "trademarks": "May I use the trademarks of the author?",
    "warranty": "Which warranty does the author give?",
    "liability": "Who is liable for damage?",
    "contributions": "Under which terms are contributions submitted?",
    "notices": "What must happen to a NOTICE file?",
}


class State(TypedDict):
    messages: list[AnyMessage]
    answers: Annotated[dict[str, AnyMessage], operator.or_]
    summary: AnyMessage


def prompts(state, names=tuple(QUESTIONS)):
    return {name: [*state["messages"], HumanMessage(QUESTIONS[name])] for name in names}


def summary_prompt(state):
    notes = "\n".join(f"{name}: {state['answers'][name].text}" for name in QUESTIONS)
    return [*state["messages"], HumanMessage(f"Sum this up:\n{notes}")]


def plain_graph(llm, names=tuple(QUESTIONS), *, asynchronous, join=False):
    """A fan-out as LangGraph's users write it, with no node of ours."""

    def branch(name):
        def ask(state):
            return {"answers": {name: llm.invoke(prompts(state)[name])}}

        async def aask(state):
            return {"answers": {name: await llm.ainvoke(prompts(state)[name])}}

        return aask if asynchronous else ask

    async def summarize(state):
        return {"summary": await llm.ainvoke(summary_prompt(state))}

    graph = StateGraph(State)
    for name in names:
        graph.add_node(name, branch(name))
        graph.add_edge(START, name)
    if join:
        graph.add_node("join", summarize)
        graph.add_edge(list(names), "join")
        graph.add_edge("join", END)
    return graph.compile()


async def test_eight_async_branches_on_a_cold_engine_then_the_join_then_all_again(
    llm, engine, document
):
    counter = Counter(engine, prompts({"messages": document}).values())
    graph = plain_graph(llm, asynchronous=True)
    result = await graph.ainvoke({"messages": document, "answers": {}})
    counter.check()
    counter.check_cells(llm.max_tokens)
    read = [m.usage_metadata["input_token_details"]["cache_read"] for m in answers(result)]
    assert sum(read) == counter.counted("forked_tokens")

    join = Counter(engine, [summary_prompt(result)])
    known = max(len(os.path.commonprefix([join.prompts[0], p])) for p in counter.prompts)
    await llm.ainvoke(summary_prompt(result))
    assert 1 <= join.counted("prefilled_tokens") <= len(join.prompts[0]) - known

    # a prompt that is known to its end costs one token, for its logits
    again = Counter(engine, prompts({"messages": document}).values())
    await graph.ainvoke({"messages": document, "answers": {}})
    assert again.counted("prefilled_tokens") == len(QUESTIONS)


def answers(result):
    return [result["answers"][name] for name in QUESTIONS]


def test_eight_sync_branches_on_a_cold_engine(llm, engine, document):
    counter = Counter(engine, prompts({"messages": document}).values())
    plain_graph(llm, asynchronous=False).invoke({"messages": document, "answers": {}})
    counter.check()
    counter.check_cells(llm.max_tokens)


@pytest.mark.parametrize("arrival", ["half prefilled", "owner decoding"])
async def test_branches_that_arrive_later(llm, engine, document, arrival):
    first, *others = QUESTIONS
    counter = Counter(engine, prompts({"messages": document}).values())
    request = Request(temperature=0, max_tokens=64, ignore_eos=True)
    owner = engine.agenerate(counter.prompts[0], request)
    awaited = PrefillProgress if arrival == "half prefilled" else Token
    event = await anext(e async for e in owner if isinstance(e, awaited))
    if isinstance(event, PrefillProgress):
        assert 0 < event.done < event.total

    async def finish():
        return [e async for e in owner]

    graph = plain_graph(llm, others, asynchronous=True)
    await asyncio.gather(graph.ainvoke({"messages": document, "answers": {}}), finish())
    assert first not in others
    counter.check()


async def test_our_nodes_share_as_a_plain_graph_does(llm, engine, document):
    graph = StateGraph(State)
    graph.add_node("read", PrefillNode(llm))
    graph.add_node("panel", ForkNode(llm, QUESTIONS, output_key="answers"))
    graph.add_edge(START, "read")
    graph.add_edge("read", "panel")
    counter = Counter(engine, prompts({"messages": document}).values())
    progress = []
    texts = {}
    stream = graph.compile().astream(
        {"messages": document, "answers": {}}, stream_mode=["custom", "messages", "values"]
    )
    async for mode, item in stream:
        if mode == "custom":
            progress.append(item["prefill"])
        elif mode == "messages":
            chunk, metadata = item
            name = metadata["kvfork_branch"]
            texts[name] = texts.get(name, "") + chunk.text
        else:
            values = item

    assert counter.trie_nodes <= counter.counted("prefilled_tokens") <= counter.most
    done = [p["done"] for p in progress]
    assert done == sorted(done)
    assert done[-1] == progress[-1]["total"]
    assert counter.common - 8 <= done[-1] <= counter.common
    assert list(values["answers"]) == list(QUESTIONS)
    assert texts == {name: message.text for name, message in values["answers"].items()}


async def test_without_sharing_every_branch_computes_its_whole_prompt(llm, engine, excerpt):
    counter = Counter(engine, prompts({"messages": excerpt}).values())
    alone = llm.model_copy(update={"share_prefix": False})
    await alone.aprefill(excerpt)
    await plain_graph(alone, asynchronous=True).ainvoke({"messages": excerpt, "answers": {}})
    assert counter.counted("prefilled_tokens") == sum(map(len, counter.prompts))
    assert counter.counted("forked_tokens") == 0
