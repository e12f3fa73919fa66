"""The graph on stock llama-server, one slot per branch, through ChatOpenAI.

Its slots share one KV cache, or have a stream of it each: which is faster depends on the prompts.
"""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from benchmarks.contestants import CONTESTANTS
from benchmarks.job import STOCK, Found, Job, serve
from benchmarks.measures.graph import count_tokens, timed
from benchmarks.prompts import messages


def measure(job: Job) -> Iterator[Found]:
    options = CONTESTANTS[job.contestant].options
    with make_llm(job, slots=len(job.questions), unified=options["unified"]) as llm:
        fan_outs = {"first": job.questions, "next": job.more_questions}
        if options["warmed"]:
            llm.invoke(messages(job.document, "Is this a license?"), max_tokens=1)
            del fan_outs["next"]  # it is no other than without the warming
        for name, questions in fan_outs.items():
            seconds, answers = timed(llm, job.document, questions)
            yield Found(name, seconds, *count_tokens(answers))


@contextmanager
def make_llm(job: Job, *, slots: int, unified: bool = False) -> Iterator[ChatOpenAI]:
    """Run a server of some slots; yield a chat model that asks it."""
    with server(job, slots=slots, unified=unified) as url:
        yield chat_model(job, url)


def chat_model(job: Job, url: str) -> ChatOpenAI:
    """Return a chat model that asks a server."""
    return ChatOpenAI(
        base_url=f"{url}/v1",
        api_key=SecretStr("none"),
        model="any",
        temperature=0,
        max_completion_tokens=job.generate,
        timeout=None,
        max_retries=0,
    )


@contextmanager
def server(job: Job, *, slots: int, unified: bool, more: Sequence[str] = ()) -> Iterator[str]:
    """Run a server of some slots, with more options; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(str(STOCK / "llama-server"), "--model", job.model_path),
        *("--host", "127.0.0.1", "--port", str(port), "--no-ui"),
        *("--parallel", str(slots), "--ctx-size", str(slots * job.branch_tokens)),
        "--kv-unified" if unified else "--no-kv-unified",
        *("--threads", str(job.threads), "--threads-batch", str(job.threads)),
        *("--flash-attn", "on", "--ignore-eos", "--no-cache-idle-slots", *more),
    ]
    with subprocess.Popen(command) as process:
        try:
            _wait_until_healthy(process, f"http://127.0.0.1:{port}/health")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()  # there is nothing to clean up


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str) -> None:
    while not _is_healthy(url):
        if process.poll() is not None:
            raise RuntimeError(f"llama-server ended with code {process.returncode}")
        time.sleep(0.1)


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, TimeoutError):  # it is still loading the model
        return False


if __name__ == "__main__":
    serve(measure)
