"""What is remembered of runs, and how it is forgotten."""

from uuid import uuid4

import pytest
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

from langgraph_kvfork.hooks import runs


@pytest.fixture
def known():
    known = runs._runs._runs
    assert not known
    yield known
    known.clear()


def test_all_parts_of_a_run_are_known_by_their_ids_and_forgotten_with_it(known):
    seen = []

    @tool
    def look(what: str) -> str:
        """Look."""
        seen.append(set(known.values()))
        return what

    def nested(value):
        return look.invoke({"what": value})

    chain = RunnableLambda(nested) | RunnableLambda(look.invoke)
    assert chain.invoke("x") == "x"
    assert [len(runs) for runs in seen] == [1, 1]
    assert seen[0] == seen[1]
    assert not known


async def test_runs_at_a_time_are_told_apart(known):
    seen = []

    async def work(value):
        seen.append(len(set(known.values())))
        return value

    chain = RunnableLambda(work) | RunnableLambda(work)
    assert await chain.abatch([1, 2, 3]) == [1, 2, 3]
    assert max(seen) == 3
    assert not known


def test_what_nothing_is_heard_of_is_forgotten(known, monkeypatch):
    abandoned, part, late = uuid4(), uuid4(), uuid4()
    runs._runs.begin(abandoned, None)
    runs._runs.begin(part, abandoned)
    runs._runs.begin(late, uuid4())  # a part of what is over
    assert set(known) == {abandoned, part}
    monkeypatch.setattr(runs, "TIME_LIMIT", -1.0)
    RunnableLambda(lambda value: value).invoke(1)
    assert not known
