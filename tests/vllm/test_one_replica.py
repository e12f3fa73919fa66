"""A fan-out on a real vLLM: its counters say what messages and reports say, block for block."""

from typing import Literal

import pytest
from fan_outs import QUESTIONS, WAYS_TO_CANCEL, cancel, chat, counts, nodes, plain, some_document
from helpers import await_until, call
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
from vllm_servers import BLOCK, Vllm

from langgraph_kvfork import (
    ContextOverflowError,
    ForkNode,
    ForkReport,
    InvalidRequestError,
    PrefillNode,
    ServerWarning,
)
from langgraph_kvfork.cli.main import main


class Counted:
    """What a server has looked up and found in its cache since this was made."""

    def __init__(self, *servers):
        self._servers = servers
        self._before = self._now()

    def _now(self):
        return [(server.asked, server.hits) for server in self._servers]

    @property
    def each(self):
        """Return the tokens looked up and those found, for each server."""
        now = zip(self._now(), self._before, strict=True)
        return [(asked - a, hits - h) for (asked, hits), (a, h) in now]

    @property
    def asked(self):
        return sum(asked for asked, _ in self.each)

    @property
    def hits(self):
        return sum(hits for _, hits in self.each)

    @property
    def computed(self):
        return sum(asked - hits for asked, hits in self.each)


def row(servers, form, asynchronous, counted, report, answers):
    """Return what the record has of a fan-out."""
    where = "tasks" if asynchronous else "threads"
    numbers = [counted.asked, counted.hits, counted.computed]
    told = [report.prefilled_tokens, sum(cached(answers)), report.forked_tokens]
    return [servers, form, where, *numbers, *told]


def cached(answers):
    """Return what each answer says it took from the cache."""
    return [answer.usage_metadata["input_token_details"]["cache_read"] for answer in answers]


def test_it_says_what_it_is(vllm, capsys):
    facts = chat(vllm).server_facts()
    assert (facts.kind, facts.model, facts.n_ctx) == ("vllm", "tiny", 4096)
    assert facts.version.startswith("0.32")
    assert facts.has_metrics
    assert main(["doctor", "--server", vllm.url]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "server: vllm 0.32" in out
    assert "all go at once" in out


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("form", ["nodes", "nodes ahead", "plain graph"])
async def test_it_computes_one_prompt_and_each_branchs_own(
    vllm, document, record, form, asynchronous
):
    llm = chat(vllm)
    messages = some_document(f"{form} {asynchronous}", document)
    bare, prompts = counts(llm, messages)
    graph = plain(llm) if form == "plain graph" else nodes(llm, ahead="ahead" in form)
    counted = Counted(vllm)
    with ForkReport() as report:
        state = await call(graph, {"messages": messages}, asynchronous=asynchronous)
    answers = state["answers"] if form == "plain graph" else state["branches"]
    record.append(row("one vLLM", form, asynchronous, counted, report, answers))
    # what a branch computes is its own, and what is no whole block of the prefix
    own = [n - bare + 16 + BLOCK for n in prompts]
    assert counted.computed <= max(prompts) + sum(own) < 3 * max(prompts)
    assert counted.hits == report.forked_tokens == sum(cached(answers))
    assert counted.computed == report.prefilled_tokens
    assert all(n % BLOCK == 0 for n in cached(answers))
    assert report.prompt_tokens == sum(prompts)
    assert vllm.running == 0


def test_the_plain_client_gets_what_it_can_without_help(vllm, document):
    """vLLM shares by itself: `ChatKVForkServer` holds nothing back, and adds the report."""
    messages = some_document("plain client", document)
    client = ChatOpenAI(base_url=f"{vllm.url}/v1", api_key="none", model="tiny", max_tokens=4)
    branches = ForkNode(client, QUESTIONS).invoke({"messages": messages})["branches"]
    assert sum(n > 0 for n in cached(branches)) == 7


async def test_eight_answers_to_one_prompt_share_it(vllm, document):
    llm = chat(vllm, seed=1).bind(temperature=1.0)
    messages = [*some_document("samples", document), HumanMessage("What is it about?")]
    counted = Counted(vllm)
    with ForkReport() as report:
        answers = (await ForkNode(llm, n=8).ainvoke({"messages": messages}))["branches"]
    assert len({answer.text for answer in answers}) > 1
    assert counted.hits == report.forked_tokens == 7 * max(cached(answers))


async def test_a_streamed_answer_has_the_numbers_too(vllm, document):
    messages = [*some_document("stream", document), HumanMessage("What is it?")]
    llm = chat(vllm)
    chunks = [chunk async for chunk in llm.astream(messages)]
    whole, again = sum(chunks[1:], chunks[0]), llm.invoke(messages)
    assert cached([whole]) == [0]
    assert cached([again])[0] > 250
    for message in (whole, again):
        fork, usage = message.response_metadata["fork"], message.usage_metadata
        assert fork["forked_tokens"] + fork["prefilled_tokens"] == usage["input_tokens"]


async def test_a_namespace_shares_with_no_other(vllm, document):
    messages = [*some_document("namespace", document), HumanMessage("What is it?")]
    taken = [
        cached([await chat(vllm, namespace=namespace).ainvoke(messages)])[0]
        for namespace in ("tenant 7", "tenant 8", "tenant 7", None)
    ]
    assert taken[0] == taken[1] == taken[3] == 0
    assert taken[2] > 250


async def test_a_schema_is_followed(vllm):
    class Choice(BaseModel):
        answer: Literal["yes", "no"]

    chosen = await chat(vllm).with_structured_output(Choice).bind(max_tokens=64).ainvoke("Is it?")
    assert chosen.answer in ("yes", "no")


def test_a_grammar_is_refused(vllm):
    with pytest.raises(InvalidRequestError, match="vllm takes no GBNF"):
        chat(vllm, grammar='root ::= "yes"').invoke("Hello")


async def test_a_prompt_that_does_not_fit(vllm, document):
    with pytest.raises(ContextOverflowError, match="--max-model-len") as refused:
        await chat(vllm).ainvoke(document[0].content * 3)
    assert not refused.value.is_retryable


@pytest.mark.parametrize("how", WAYS_TO_CANCEL)
async def test_after_a_cancel_nothing_runs_on_the_server(vllm, how):
    llm = chat(vllm).bind(max_tokens=3000, extra_body={"ignore_eos": True})
    await cancel(llm, how, vllm)


async def test_a_race_leaves_nothing_running(vllm, document):
    slow = chat(vllm).bind(max_tokens=3000, extra_body={"ignore_eos": True})
    quick = chat(vllm).bind(max_tokens=1)
    from langgraph_kvfork import ForkBranch

    node = ForkNode(
        slow, {"slow": "Count to a million.", "quick": ForkBranch("Yes?", quick)}, race=True
    )
    ends = (await node.ainvoke({"messages": some_document("race", document)}))["branches"]
    assert list(ends) == ["quick"]
    await await_until(lambda: vllm.running == 0)


async def test_a_prefill_node_is_what_later_calls_share(vllm, document):
    llm, messages = chat(vllm), some_document("ahead", document)
    counted = Counted(vllm)
    with ForkReport() as report:
        await PrefillNode(llm).ainvoke({"messages": messages})
    assert report.ahead_tokens == counted.computed
    answer = await llm.ainvoke([*messages, HumanMessage("What is it?")])
    assert cached([answer])[0] > 250


def test_tokens_are_counted_as_it_counts_them(vllm):
    llm, messages = chat(vllm), [HumanMessage("Say yes.")]
    answer = llm.invoke(messages)
    assert llm.get_num_tokens_from_messages(messages) == answer.usage_metadata["input_tokens"]
    assert llm.get_token_ids("Hello")


def test_a_server_that_does_not_report_is_named_once(document):
    with Vllm() as silent:
        with pytest.warns(ServerWarning, match="--enable-prompt-tokens-details"):
            answer = chat(silent).invoke("Hello")
        assert "cache_read" not in answer.usage_metadata["input_token_details"]
        # it ends: calls fail, and say what to do
        silent.__exit__()
        from langgraph_kvfork import KVForkError

        with pytest.raises(KVForkError, match="start it"):
            chat(silent).invoke("Hello")
        silent.__enter__()
        assert chat(silent).invoke("Hello").usage_metadata["output_tokens"] > 0
