"""What several test files of this folder need."""

import asyncio
import time
from collections.abc import Sequence

from langchain_core.messages import BaseMessage

from langgraph_kvfork import Engine
from langgraph_kvfork._messages import to_openai


def idle(engine: Engine) -> bool:
    stats = engine.stats()
    return stats.branches_running == stats.branches_waiting == 0


def wait_until(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


async def await_until(condition, seconds: float = 30.0) -> None:
    """As `wait_until`, while the event loop goes on."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


def prompt_tokens(engine: Engine, messages: Sequence[BaseMessage]) -> list[int]:
    return engine.tokenize(engine.render(to_openai(messages)).text)


async def call(runnable, *args, asynchronous, **kwargs):
    """Call a model or a node one way or the other."""
    if asynchronous:
        return await runnable.ainvoke(*args, **kwargs)
    return runnable.invoke(*args, **kwargs)
