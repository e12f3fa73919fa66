"""What several test files of this folder need."""

import asyncio
import os.path
import time
from collections.abc import Sequence

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage

from langgraph_kvfork import Engine
from langgraph_kvfork.convert.messages import to_openai


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
    return engine.tokenize(engine.render(to_openai(messages)))


class Recorder(BaseCallbackHandler):
    """Keeps what models are asked, in the order of the calls, and what they answer.

    Attributes:
        prompts: Each call's messages.
        texts: Each answer's text, with the prompt's.
    """

    run_inline = True

    def __init__(self):
        self.prompts = []
        self.texts = []
        self._asked = {}

    def config(self):
        """Return a configuration that records a graph's run, on a thread of its own."""
        return {"callbacks": [self], "configurable": {"thread_id": "1"}}

    def on_chat_model_start(self, serialized, messages, *, run_id, **kwargs):
        self.prompts += messages
        self._asked[run_id] = tuple(message.text for message in messages[0])

    def on_llm_end(self, response, *, run_id, **kwargs):
        self.texts.append((self._asked.pop(run_id), response.generations[0][0].text))


class Counter:
    """What was computed since it was made, against what a set of prompts may cost."""

    def __init__(self, engine, messages):
        self.engine = engine
        self.prompts = [prompt_tokens(engine, m) for m in messages]
        self.before = engine.stats()

    def counted(self, name):
        return getattr(self.engine.stats(), name) - getattr(self.before, name)

    @property
    def common(self):
        return len(os.path.commonprefix(self.prompts))

    @property
    def most(self):
        return self.common + sum(len(p) - self.common for p in self.prompts)

    @property
    def trie_nodes(self):
        return len({tuple(p[:i]) for p in self.prompts for i in range(1, len(p) + 1)})

    def check(self):
        assert self.trie_nodes <= self.counted("prefilled_tokens") <= self.most
        total = sum(map(len, self.prompts))
        assert self.counted("prefilled_tokens") + self.counted("forked_tokens") == total
        assert self.counted("preemptions") == 0

    def check_cells(self, n_generated):
        in_a_page = 63  # tokens at most before the one where a prompt turns off: they are copied
        private = sum(in_a_page + len(p) - self.common + n_generated for p in self.prompts)
        assert self.engine.stats().cells_used_max <= self.common + private


async def call(runnable, *args, asynchronous, **kwargs):
    """Call a model or a node one way or the other."""
    if asynchronous:
        return await runnable.ainvoke(*args, **kwargs)
    return runnable.invoke(*args, **kwargs)
