"""A process that was forked off one with a model in it gets an error, and does not hang."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

PROGRAM = """
import asyncio, os, sys
from langgraph_kvfork import ChatKVFork, ProcessForkedError

llm = ChatKVFork(n_ctx=256, max_tokens=4)
engine = llm.engine if sys.argv[1] == "after" else None
if engine:
    asyncio.run(llm.ainvoke("Hello"))
child = os.fork()
if not child:
    def refused(call):
        try:
            call()
        except ProcessForkedError as error:
            return "spawn" in str(error)
        return False

    if engine:
        calls = (engine.stats, lambda: llm.invoke("Hello"), lambda: list(llm.stream("Hello")),
                 lambda: llm.get_num_tokens("Hello"), lambda: engine.generate("Hello"),
                 lambda: ChatKVFork(n_ctx=512).invoke("Hello"),
                 lambda: asyncio.run(llm.ainvoke("Hello")))
        good = all(map(refused, calls))
        engine.close()  # it has nothing to close, and says nothing
    else:
        good = bool(llm.invoke("Hello").usage_metadata)
        llm.engine.close()
    os._exit(0 if good else 1)
_, status = os.waitpid(child, 0)
# the parent goes on
good = bool(llm.invoke("Hello").usage_metadata)
sys.exit(os.waitstatus_to_exitcode(status) or not good)
"""


@pytest.mark.parametrize("loaded", ["after", "before"])
def test_a_fork_after_a_model_was_loaded_is_refused_and_before_it_works(loaded):
    command = [sys.executable, "-c", PROGRAM, loaded]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
