"""A process ends at once, with its own exit code, whatever its models do at that moment.

`python tests/integration/engine/test_process_end.py 200` tries as many moments, and says how long
the slowest end took.
"""

import random
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import asyncio, os, signal, sys, threading, time

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
what, how, code, after, slow = sys.argv[1:]
code, after = int(code), float(after)

from langchain_core.messages import HumanMessage
from langgraph_kvfork import ChatKVFork, Engine
from langgraph_kvfork.graph.prefill_node import PrefillNode

llm = ChatKVFork(n_ctx=4096, max_tokens=2000, ignore_eos=True)
long = "Once upon a time there was a model. " * 300

def stream():
    for _ in llm.stream("Hello"):
        pass

async def astream():
    async for _ in llm.astream("Hello"):
        pass

def prefill():
    llm.prefill([HumanMessage(long)])
    PrefillNode(llm, wait=False).invoke({"messages": [HumanMessage(long + "and another")]})
    stream()

async def several():
    await asyncio.gather(*(llm.ainvoke(f"{i} {long[: 300 * i]}") for i in range(4)))

def again_and_again():
    while True:
        ChatKVFork(n_ctx=512, max_tokens=3, keep_alive=0).invoke("Hello")

WORK = {
    "invoke": lambda: llm.invoke("Hello"),
    "stream": stream,
    "prefill": prefill,
    "astream": lambda: asyncio.run(astream()),
    "several": lambda: asyncio.run(several()),
    "again and again": again_and_again,
}
if slow == "loaded":
    llm.load()

def end():
    print("ends", time.monotonic(), flush=True)
    if how == "exit":
        sys.exit(code)
    if how == "exception":
        raise ValueError("the program's own")

if how == "signal":
    def interrupt():
        time.sleep(after)
        print("ends", time.monotonic(), flush=True)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    try:
        WORK[what]()
        time.sleep(60)
    except KeyboardInterrupt:
        sys.exit(code)
elif how == "loop":
    async def main():
        if what == "invoke":
            task = asyncio.create_task(llm.ainvoke(long))
        else:
            task = asyncio.create_task(astream() if what == "astream" else several())
        await asyncio.sleep(after)
        if code % 2:
            task.cancel()

    asyncio.run(main())
    how = "exit"
    end()
else:
    threading.Thread(target=WORK[what], daemon=True).start()
    time.sleep(after)
    end()
"""
WORK = ("invoke", "stream", "prefill", "astream", "several", "again and again")
OWN = "ValueError: the program's own"


def end_once(seed):
    """Return what was tried, how long the end took, and what is wrong with it."""
    choose = random.Random(seed)
    how = choose.choice(("end", "exit", "exception", "signal", "loop"))
    what = choose.choice(WORK)
    code = choose.choice((0, 3, 7))
    after = choose.uniform(0.0, 1.5)
    slow = choose.choice(("cold", "loaded"))
    tried = f"seed {seed}: {what}, {how}, {code}, {after:.3f} s, {slow}"
    command = [sys.executable, "-c", PROGRAM, what, how, str(code), str(after), slow]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    ended = time.monotonic()
    if "ends " not in done.stdout:
        return tried, 0.0, f"it did not get to its end: {done.stderr}"
    took = ended - float(done.stdout.split("ends ")[1].split()[0])
    expected = {"end": 0, "exception": 1}.get(how, code)
    wrong = []
    if done.returncode != expected:
        wrong.append(f"exit code {done.returncode}, not {expected}")
    lines = done.stderr.strip().splitlines()
    if how == "exception":
        # Python's own words on it: a traceback of one frame
        if not lines or lines[-1] != OWN or done.stderr.count("Traceback") != 1:
            wrong.append(f"it printed {done.stderr!r}")
    elif lines:
        wrong.append(f"it printed {done.stderr!r}")
    return tried, took, "; ".join(wrong)


@pytest.mark.parametrize("seed", range(12))
def test_a_process_that_ends_at_a_random_moment_ends_as_it_wants(seed):
    tried, _, wrong = end_once(seed)
    print(tried)
    assert not wrong, tried


PREFILL_AT_THE_END = """
from langchain_core.messages import HumanMessage
from langgraph_kvfork import ChatKVFork, PrefillNode
node = PrefillNode(ChatKVFork(n_ctx=4096), wait=False)
node.invoke({"messages": [HumanMessage("Once upon a time. " * 500)]})
"""
CANCELLED_LOAD = """
import asyncio
from langgraph_kvfork import ChatKVFork

async def main():
    task = asyncio.create_task(ChatKVFork(n_ctx=8192).ainvoke("hi"))
    await asyncio.sleep(0.3)
    task.cancel()

asyncio.run(main())
"""
CLOSED_LOOP = """
import asyncio
from langgraph_kvfork import ChatKVFork

loop = asyncio.new_event_loop()
task = loop.create_task(ChatKVFork(n_ctx=512).ainvoke("hi"))
loop.run_until_complete(asyncio.sleep(0.2))
task._log_destroy_pending = False  # asyncio's own complaint
loop.close()
import time
time.sleep(1)
"""
AN_ENGINE_THAT_NOBODY_CLOSED = """
from langgraph_kvfork import ChatKVFork, Engine
params = ChatKVFork(n_ctx=512)._engine_params()
Engine(params).generate("Hello")
"""
INTERRUPTED_IN_OUR_WORK = """
from langgraph_kvfork import ChatKVFork
from langgraph_kvfork.engine.ending import native_work

native_work.__enter__()  # Ctrl-C may come between this and the block
"""
IN_A_VALIDATOR = """
import threading, time
from langgraph_kvfork import ChatKVFork, EngineParams

inside = threading.Event()
class Slow:
    def __fspath__(self):
        inside.set()
        time.sleep(0.3)
        return "/model.gguf"

threading.Thread(target={make}, kwargs=dict(model_path=Slow()), daemon=True).start()
inside.wait()
"""
IN_A_TOOL = """
import threading, time
from pydantic import BaseModel
from langgraph_kvfork import ChatKVFork

inside = threading.Event()
class Tool(BaseModel):
    a: int

    @classmethod
    def __get_pydantic_json_schema__(cls, schema, handler):
        inside.set()
        time.sleep(0.3)
        return handler(schema)

llm = ChatKVFork()
threading.Thread(target=llm.bind(tools=[Tool]).invoke, args=["hi"], daemon=True).start()
inside.wait()
"""


@pytest.mark.parametrize(
    "program",
    [
        PREFILL_AT_THE_END,
        CANCELLED_LOAD,
        CLOSED_LOOP,
        AN_ENGINE_THAT_NOBODY_CLOSED,
        INTERRUPTED_IN_OUR_WORK,
        IN_A_VALIDATOR.format(make="ChatKVFork"),
        IN_A_VALIDATOR.format(make="EngineParams"),
        IN_A_TOOL,
    ],
)
def test_nothing_is_printed_at_the_end(program):
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_interrupts_a_wait_for_a_load():
    program = """
import os, signal, sys, threading, time
from langgraph_kvfork import ChatKVFork, Engine
from langgraph_kvfork.engine import weights

signal.signal(signal.SIGINT, signal.default_int_handler)

load = weights.load_model
def slow(*args):
    time.sleep(3)
    return load(*args)
weights.load_model = slow

llm = ChatKVFork(n_ctx=256, max_tokens=2)
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
start = time.monotonic()
try:
    llm.invoke("Hello")
except KeyboardInterrupt:
    assert time.monotonic() - start < 2.5
    assert llm.invoke("Hello").content  # somebody may still want it
    sys.exit(5)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (5, b"")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    first = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(10**6)
    times, failures = [], 0
    for seed in range(first, first + count):
        tried, took, wrong = end_once(seed)
        times.append(took)
        failures += bool(wrong)
        if wrong or took > 1:
            print(tried, f"took {took:.2f} s;", wrong, flush=True)
    print(f"{count} ends, {failures} wrong, the slowest took {max(times):.2f} s")
    sys.exit(bool(failures))
