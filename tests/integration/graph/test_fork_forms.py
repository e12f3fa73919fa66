"""`ForkNode` on a real model: what its forms compute, and what a race leaves behind."""

from pathlib import Path

import pytest
from helpers import call, idle, prompt_tokens, wait_until
from langchain_core.messages import HumanMessage
from pydantic import BaseModel

from langgraph_kvfork import (
    ChatKVFork,
    ContextOverflowError,
    ForkBranch,
    ForkNode,
    PrefillNode,
    arrange,
)

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


class Answer(BaseModel):
    yes: bool


@both
async def test_eight_samples_prefill_their_prompt_once(llm, engine, excerpt, asynchronous):
    messages = [*excerpt, HumanMessage("What is this?")]
    length = len(prompt_tokens(engine, messages))
    before = engine.stats()
    node = ForkNode(llm.bind(temperature=1, seed=1, max_tokens=4, ignore_eos=True), n=8)
    result = await call(node, {"messages": messages}, asynchronous=asynchronous)
    stats = engine.stats()
    # the last token of a prompt is always computed: its logits are what a text begins with
    assert stats.prefilled_tokens - before.prefilled_tokens == length + 7
    assert stats.forked_tokens - before.forked_tokens == 7 * (length - 1)
    assert stats.generated_tokens - before.generated_tokens == 8 * 4
    # a fork copies at most the 63 tokens of a page that is not full
    assert stats.cells_used_max <= length + 8 * (63 + 4)
    # eight different seeds say different things
    assert len({answer.text for answer in result["branches"]}) > 1


@both
async def test_branches_with_a_schema_and_a_grammar_share_their_prefix(
    llm, engine, excerpt, asynchronous
):
    node = ForkNode(
        llm,
        {
            "free": "Is this a license?",
            "forced": ForkBranch("Is this a license?", llm.bind(grammar='root ::= "Certainly."')),
            "parsed": ForkBranch(
                "Is this a license?", llm.with_structured_output(Answer, max_tokens=32)
            ),
        },
    )
    before = engine.stats()
    result = await call(node, {"messages": excerpt}, asynchronous=asynchronous)
    length = len(prompt_tokens(engine, [*excerpt, HumanMessage("Is this a license?")]))
    assert engine.stats().prefilled_tokens - before.prefilled_tokens == length + 2
    assert result["branches"]["forced"].text == "Certainly."
    assert isinstance(result["branches"]["parsed"], Answer)


@both
async def test_a_race_cancels_the_others_in_the_engine(llm, engine, excerpt, asynchronous):
    endless = llm.model_copy(update={"max_tokens": None, "ignore_eos": True})
    short = llm.bind(grammar='root ::= "Done."', ignore_eos=False)
    branches = {"a": "Tell me a story.", "b": ForkBranch("Hello.", short), "c": "Go on."}
    node = ForkNode(endless, branches, race=True)
    result = await call(node, {"messages": excerpt}, asynchronous=asynchronous)
    wait_until(lambda: idle(engine))
    assert {name: answer.text for name, answer in result["branches"].items()} == {"b": "Done."}
    # to the end of the context, each would have said more than a thousand
    assert engine.stats().cells_used < 2048


@both
async def test_a_branch_that_fails_leaves_the_others_their_answers(
    llm, engine, excerpt, asynchronous
):
    node = ForkNode(llm, ["Hello.", "word " * 6000, "Why?"], on_error="collect")
    answers = (await call(node, {"messages": excerpt}, asynchronous=asynchronous))["branches"]
    assert [type(answer).__name__ for answer in answers] == [
        "AIMessage",
        "ContextOverflowError",
        "AIMessage",
    ]
    assert isinstance(answers[1], ContextOverflowError)


@both
async def test_fewer_at_a_time_share_all_the_same(llm, engine, excerpt, asynchronous):
    prompts = [[*excerpt, HumanMessage(f"Question {i}?")] for i in range(5)]
    tokens = [tuple(prompt_tokens(engine, prompt)) for prompt in prompts]
    trie = {prompt[:i] for prompt in tokens for i in range(1, len(prompt) + 1)}
    before = engine.stats()
    node = ForkNode(llm, [p[-1].content for p in prompts], max_concurrency=2)
    await call(node, {"messages": excerpt}, asynchronous=asynchronous)
    assert engine.stats().prefilled_tokens - before.prefilled_tokens == len(trie)


TEMPLATES = Path(__file__).parents[3] / "build" / "llama.cpp" / "models" / "templates"


@pytest.mark.parametrize(
    "name",
    ["google-gemma-2-2b-it.jinja", "mistralai-Mistral-Nemo-Instruct-2407.jinja"],
    ids=["Gemma", "Mistral"],
)
def test_a_template_whose_roles_alternate_shares_a_document_of_the_humans(name, document):
    """The prefill node, the fan-out and `arrange` put the question behind the document."""
    template = (TEMPLATES / name).read_text(encoding="utf-8")
    llm = ChatKVFork(n_ctx=1024, temperature=0, max_tokens=2, chat_template=template)
    state = {"messages": [HumanMessage(document[0].content[:1500])]}
    try:
        PrefillNode(llm).invoke(state)
        prefilled = llm.engine.stats().prefilled_tokens
        node = ForkNode(llm, {"risks": "List the risks.", "role": [("system", "Be a judge.")]})
        answers = node.invoke(state)["branches"]
        for answer in answers.values():
            assert answer.usage_metadata["input_token_details"]["cache_read"] > prefilled - 12
        again = llm.invoke(arrange(state["messages"], "List the risks."))
        usage = again.usage_metadata
        assert usage["input_tokens"] == answers["risks"].usage_metadata["input_tokens"]
        assert usage["input_token_details"]["cache_read"] == usage["input_tokens"] - 1
    finally:
        llm.engine.close()
