"""A fan-out on two real vLLMs behind a real router: its branches meet their prefix."""

import pytest
from fan_outs import counts, nodes, plain, some_document
from helpers import call
from langchain_core.messages import HumanMessage
from test_one_replica import Counted, cached, row
from vllm_servers import BLOCK, Router

from langgraph_kvfork import ChatKVForkServer, ForkReport


def chat(server, **kwargs):
    given = {"affinity_header": "X-Session-ID", "replicas": 2, **kwargs}
    return ChatKVForkServer(base_url=server.url, temperature=0, max_tokens=4, **given)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("form", ["nodes", "nodes ahead", "plain graph"])
async def test_a_fan_out_goes_to_one_replica(
    router, replicas, vllm, document, record, form, asynchronous
):
    llm = chat(router)
    messages = some_document(f"router {form} {asynchronous}", document)
    bare, prompts = counts(ChatKVForkServer(base_url=vllm.url), messages)
    graph = plain(llm) if form == "plain graph" else nodes(llm, ahead="ahead" in form)
    counted = Counted(*replicas)
    with ForkReport() as report:
        state = await call(graph, {"messages": messages}, asynchronous=asynchronous)
    answers = state["answers"] if form == "plain graph" else state["branches"]
    record.append(row("two behind vllm-router", form, asynchronous, counted, report, answers))
    assert sorted(asked > 0 for asked, _ in counted.each) == [False, True]
    own = [n - bare + 16 + BLOCK for n in prompts]
    assert counted.computed <= 2 * max(prompts) + sum(own) < 4 * max(prompts)
    assert counted.computed == report.prefilled_tokens
    assert report.prompt_tokens == sum(prompts)
    # what goes ahead a second time, after a PrefillNode or behind a pool of threads, is a hit, too
    assert (counted.hits - sum(cached(answers))) % min(cached(answers)) == 0


async def test_a_large_fan_out_warms_each_replica_once(replicas, document):
    # round robin: the router sends each request ahead, and each branch, to the next one
    with Router(*replicas, policy="round_robin") as router:
        llm = chat(router, affinity_header=None)
        messages = some_document("round robin", document)
        counted = Counted(*replicas)
        answers = (await plain(llm).ainvoke({"messages": messages}))["answers"]
        assert all(asked > 0 for asked, _ in counted.each)
        assert sum(n > 0 for n in cached(answers)) >= 6


async def test_later_fan_outs_that_begin_alike_go_where_the_first_went(router, replicas, document):
    llm, messages = chat(router), some_document("later", document)
    await plain(llm).ainvoke({"messages": messages})
    counted = Counted(*replicas)
    answers = (await plain(llm).ainvoke({"messages": messages}))["answers"]
    assert sorted(asked > 0 for asked, _ in counted.each) == [False, True]
    assert min(cached(answers)) > 250


async def test_more_branches_than_one_runs_warm_two_at_most(router, replicas, document):
    """Two keys may fall on one replica: it is the router that decides."""
    messages = some_document("shares", document)
    counted = Counted(*replicas)
    with ForkReport() as report:
        llm = chat(router, branches_per_replica=4)
        answers = (await plain(llm).ainvoke({"messages": messages}))["answers"]
    assert min(cached(answers)) > 250
    assert counted.computed == report.prefilled_tokens


async def test_a_call_alone_has_the_key_of_its_document(router, replicas, document):
    llm, messages = chat(router), some_document("alone", document)
    counted = Counted(*replicas)
    for question in ("What?", "Who?", "Why?"):
        answer = await llm.ainvoke([*messages, HumanMessage(question)])
    assert sorted(asked > 0 for asked, _ in counted.each) == [False, True]
    assert cached([answer])[0] > 250
