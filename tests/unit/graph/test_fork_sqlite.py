"""Fan-outs whose checkpoints are in a file: another process goes on, and computes nothing twice."""

import json
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command
from test_fork_interrupts import (
    AT_ONCE,
    INPUT,
    Conversation,
    Flaky,
    Panel,
    asked,
    both,
    texts,
    with_flaky,
)

from langgraph_kvfork import ForkNode

PROCESS = Path(__file__).with_name("sqlite_process.py")


@asynccontextmanager
async def saver_of(path, asynchronous):
    if asynchronous:
        async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
            yield saver
    else:
        with SqliteSaver.from_conn_string(str(path)) as saver:
            yield saver


@both
@pytest.mark.parametrize("late", [("a", "b"), ("b", "a")])
async def test_each_branch_gets_its_own_answer(tmp_path, late, asynchronous):
    for panel in (Panel({"a": 1, "b": 1}, late=late), Panel({"a": 1, "b": 1}, late=late[::-1])):
        node = ForkNode(panel.llm(), {name: name for name in "abc"})
        async with saver_of(tmp_path / "checkpoints", asynchronous) as saver:
            talk = Conversation(node, asynchronous=asynchronous, checkpointer=saver)
            state = await talk.graph.aget_state(talk.config) if asynchronous else None
            state = state or talk.graph.get_state(talk.config)
            if not state.next:
                assert asked(await talk.run(INPUT)) == ["a0", "b0"]
                assert panel.calls == {"a": 1, "b": 1, "c": 1}
                continue
            answers = {i.id: f"<{i.value}>" for i in state.interrupts}
            result = await talk.run(Command(resume=answers))
    assert texts(result["branches"]) == {"a": "a: <a0>", "b": "b: <b0>", "c": "c: "}
    assert panel.calls == {"a": 1, "b": 1}


@both
async def test_a_failed_run_goes_on_from_its_file(tmp_path, asynchronous):
    panel = Panel({})
    flaky = Flaky(1, panel)
    for is_second in (False, True):
        async with saver_of(tmp_path / "checkpoints", asynchronous) as saver:
            talk = Conversation(
                with_flaky(panel, flaky), asynchronous=asynchronous, checkpointer=saver
            )
            if not is_second:
                with pytest.raises(ConnectionError):
                    await talk.run(INPUT)
                continue
            result = await talk.run(None)
    assert texts(result["branches"]) == {"a": "a: ", "b": "b: ", "c": "at last"}
    assert panel.calls == {"a": 1, "b": 1}


@both
async def test_another_attempt_runs_what_has_not_finished(tmp_path, asynchronous):
    panel = Panel({})
    async with saver_of(tmp_path / "checkpoints", asynchronous) as saver:
        talk = Conversation(
            with_flaky(panel, Flaky(2, panel)),
            asynchronous=asynchronous,
            checkpointer=saver,
            retry_policy=AT_ONCE,
        )
        result = await talk.run(INPUT)
    assert texts(result["branches"]) == {"a": "a: ", "b": "b: ", "c": "at last"}
    assert panel.calls == {"a": 1, "b": 1}


def in_a_process(path, how):
    ended = subprocess.run(
        [sys.executable, PROCESS, path, how],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return json.loads(ended.stdout)


@pytest.mark.parametrize("how", ["sync", "async"])
def test_three_processes_of_one_conversation(tmp_path, how):
    path = tmp_path / "checkpoints"
    assert in_a_process(path, how) == {"asked": ["a", "b"], "calls": ["a", "b", "c"]}
    assert in_a_process(path, how) == {"asked": ["b"], "calls": ["a", "b"]}
    assert in_a_process(path, how) == {
        "answers": {"a": "a: <a>", "b": "b: <b>", "c": "c: -"},
        "calls": ["b"],
    }
