"""`python -W error`: a warning of ours ends no call, and is logged instead."""

import ast
import asyncio
import logging
import warnings
from pathlib import Path
from typing import Any, TypedDict

import pytest
from helpers import call, idle, wait_until
from langchain_core.messages import HumanMessage, SystemMessage
from langgraph.graph import START, StateGraph

import langgraph_kvfork
from langgraph_kvfork import ChatKVFork, ForkNode
from langgraph_kvfork.chat import small_pool
from langgraph_kvfork.order import watch
from langgraph_kvfork.schema import held

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
PACKAGE = Path(langgraph_kvfork.__file__).parent


class State(TypedDict, total=False):
    messages: list[Any]
    branches: Any


@pytest.fixture(autouse=True)
def errors(caplog):
    """Every warning of this package's is an error, as `-W error` has it."""
    caplog.set_level(logging.WARNING, "langgraph_kvfork")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def logged(caplog, name):
    return [r.message for r in caplog.records if r.message.startswith(f"{name}: ")]


@both
async def test_equal_answers(llm, engine, caplog, asynchronous):
    node = ForkNode(llm, n=3)
    for _ in range(2):  # it says so each time, and is no error any time
        caplog.clear()
        state = {"messages": [("human", "Say hello.")]}
        answers = (await call(node, state, asynchronous=asynchronous))["branches"]
        assert len({answer.text for answer in answers}) == 1
        (sentence,) = logged(caplog, "EqualAnswersWarning")
        assert "llm.bind(temperature=0.8)" in sentence


@both
async def test_the_order_of_messages(llm, engine, excerpt, caplog, monkeypatch, asynchronous):
    monkeypatch.setattr(watch, "_warned", {})
    text = excerpt[0].text
    graph = StateGraph(State)
    prompts = {
        role: [SystemMessage(f"You are {role}."), HumanMessage(f"{text} Sum it up.")]
        for role in ("a lawyer", "an editor")
    }
    graph.add_node("panel", lambda state: {"branches": llm.batch(list(prompts.values()))})
    graph.add_edge(START, "panel")
    result = await call(graph.compile(), {"messages": []}, asynchronous=asynchronous)
    assert all(answer.text for answer in result["branches"])
    (sentence,) = logged(caplog, "MessageOrderWarning")
    assert "arrange(" in sentence
    assert watch._running == {}


@both
async def test_a_pool_that_is_too_small(caplog, monkeypatch, asynchronous):
    monkeypatch.setattr(small_pool, "_warned", {})
    llm = ChatKVFork(n_ctx=512, temperature=0, max_tokens=80, ignore_eos=True)
    chunks = {str(i): f"{i} sheep passed gate {i}. " * 12 for i in range(4)}
    node = ForkNode(llm, chunks)
    state = {"messages": [("system", "Count them.")]}
    answers = (await call(node, state, asynchronous=asynchronous))["branches"]
    assert all(answer.usage_metadata["output_tokens"] == 80 for answer in answers.values())
    wait_until(lambda: logged(caplog, "SmallPoolWarning"))
    assert small_pool._groups == {}
    assert idle(llm.engine)
    llm.engine.close()


@both
async def test_what_a_template_leaves_out(llm, engine, caplog, asynchronous):
    engine._chat_template._warned.clear()
    prompt = [HumanMessage("Say hello.", name="Ada")]
    answers = [await call(llm, prompt, asynchronous=asynchronous) for _ in range(2)]
    assert answers[0].text == answers[1].text != ""
    (sentence,) = logged(caplog, "PromptWarning")
    assert "messages[0].name" in sentence


@both
@pytest.mark.parametrize("way", ["bound", "call", "tools"])
async def test_what_of_a_schema_does_not_hold(llm, engine, caplog, monkeypatch, way, asynchronous):
    monkeypatch.setattr(held, "_warned", {})
    numbers = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True, "maxItems": 1}
    schema = {"title": "A", "type": "object", "properties": {"a": numbers}, "required": ["a"]}
    if way == "call":
        form = {"type": "json_schema", "json_schema": {"name": "A", "schema": schema}}
        answer = await call(
            llm, "Numbers?", asynchronous=asynchronous, response_format=form, max_tokens=48
        )
        assert answer.text.startswith("{")
    else:
        method = "json_schema" if way == "bound" else "function_calling"
        bound = llm.with_structured_output(schema, method=method, max_tokens=64)
        assert len((await call(bound, "Numbers?", asynchronous=asynchronous))["a"]) <= 1
    (sentence,) = logged(caplog, "SchemaWarning")
    assert "uniqueItems" in sentence


async def test_branches_beside_a_warned_one_go_on(llm, engine, caplog):
    """A fan-out of fan-outs, all of which warn, loses no answer and leaves nothing running."""
    nodes = [ForkNode(llm, n=2) for _ in range(3)]
    state = {"messages": [("human", "Say hello.")]}
    results = await asyncio.gather(*(node.ainvoke(state) for node in nodes))
    assert all(answer.text for result in results for answer in result["branches"])
    assert len(logged(caplog, "EqualAnswersWarning")) == 3
    assert idle(engine)


def test_no_other_way_to_warn():
    """Each warning goes through the one function that these tests are about."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.is_relative_to(PACKAGE / "lib"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [
            path.relative_to(PACKAGE).as_posix()
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn"
        ]
    assert found == ["warning.py"]
