"""A prefill beside what the graph does next."""

import logging

import pytest
from helpers import Counter, call, wait_until
from langchain_core.messages import HumanMessage

from langgraph_kvfork import ForkNode, ForkReport, PrefillNode

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
QUESTIONS = {"a": "What does this allow?", "b": "What must I do?"}


@both
async def test_it_goes_on_at_once_and_what_follows_waits_for_the_prefix(
    llm, engine, document, asynchronous
):
    prompts = [[*document, HumanMessage(q)] for q in QUESTIONS.values()]
    counter = Counter(engine, prompts)
    state = {"messages": document}
    with ForkReport() as report:
        result = await call(PrefillNode(llm, wait=False), state, asynchronous=asynchronous)
        assert result == {}
        assert counter.counted("prefilled_tokens") < counter.common // 2
        await call(ForkNode(llm, QUESTIONS), state, asynchronous=asynchronous)
    wait_until(lambda: any(c.kind == "prefill" for c in report.calls))
    # all of it once, whoever computed it
    assert counter.trie_nodes <= counter.counted("prefilled_tokens") <= counter.most
    assert report.prefilled_tokens == counter.counted("prefilled_tokens")


@both
async def test_an_error_is_logged(llm, engine, caplog, asynchronous):
    node = PrefillNode(llm, wait=False)
    with caplog.at_level(logging.WARNING):
        await call(node, {"messages": "word " * 6000}, asynchronous=asynchronous)
        wait_until(lambda: caplog.records)
    (record,) = caplog.records
    assert "What PrefillNode started ahead has failed" in record.message
    assert "n_ctx" in record.message
