"""Python collects garbage anywhere, also inside of a lock; a stream in the garbage ends there."""

import ast
import gc
from pathlib import Path

import pytest

import langgraph_kvfork
from langgraph_kvfork import ChatKVFork, Engine
from langgraph_kvfork.chat import small_pool
from langgraph_kvfork.engine import engine as engine_module
from langgraph_kvfork.engine import weights

LOCKS = {
    "dispatcher": lambda engine: (engine._dispatcher, "_lock"),
    "calls": lambda engine: (engine._lifetime, "_lock"),
    "asked": lambda engine: (engine_module._asked, "_lock"),
    "engines": lambda engine: (engine_module._engines, "_lock"),
    "alive": lambda engine: (engine_module, "_alive_lock"),
    "weights": lambda engine: (weights, "_lock"),
    "small pool": lambda engine: (small_pool, "_lock"),
}


class CollectingLock:
    """A lock in which a stream that nobody has any more is collected, each time it is taken."""

    def __init__(self, lock, streams):
        self._lock = lock
        self._streams = streams
        self.n_collected = 0

    def __enter__(self):
        self._lock.__enter__()
        if self._streams:
            cycle = [self._streams.pop()]
            cycle.append(cycle)
            del cycle
            gc.collect()
            self.n_collected += 1

    def __exit__(self, *error):
        return self._lock.__exit__(*error)

    def __getattr__(self, name):
        return getattr(self._lock, name)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", LOCKS)
def test_a_stream_that_is_collected_inside_of_a_lock_ends(name, llm, engine, monkeypatch):
    streams = [llm.stream("Hello") for _ in range(3)]
    for stream in streams:
        next(stream)
    owner, attribute = LOCKS[name](engine)
    lock = CollectingLock(getattr(owner, attribute), streams)
    monkeypatch.setattr(owner, attribute, lock)
    # a model of its own is loaded, used and closed: each lock is taken
    with ChatKVFork(n_ctx=256, max_tokens=2, chat_template="chatml") as other:
        assert other.invoke("Hello").content
        assert llm.invoke("Hello", max_tokens=2).content
        assert other.engine in Engine.all()
    assert lock.n_collected > 1


def test_every_lock_of_the_package_can_be_taken_again():
    """So nobody has to think of which locks a stream's end takes."""
    root = Path(langgraph_kvfork.__file__).parent
    plain = [
        f"{path.relative_to(root)}:{node.lineno}"
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "threading.Lock"
    ]
    assert not plain
