"""One real model for all tests of this folder: SmolLM2, with a pool of 4,096 cells."""

from pathlib import Path

import pytest
from helpers import idle, wait_until
from langchain_core.messages import SystemMessage

from langgraph_kvfork import ChatKVFork


@pytest.fixture(scope="session")
def llm():
    model = ChatKVFork(n_ctx=4096, temperature=0, max_tokens=8)
    yield model
    model.engine.close()


@pytest.fixture
def engine(llm):
    """The model's engine, cold; and after the test, whatever it was, nothing is left in it."""
    engine = llm.engine
    engine.clear()
    yield engine
    wait_until(lambda: idle(engine))
    engine.clear()
    assert engine.stats().cells_used == 0


@pytest.fixture(scope="session")
def document():
    """The real one: Apache-2.0, about 2,200 tokens."""
    text = (Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8")
    return [SystemMessage(f"Answer in one sentence.\n\n{text}")]


@pytest.fixture(scope="session")
def excerpt(document):
    """Its beginning, where the length does not matter."""
    return [SystemMessage(document[0].content[:1500])]
