"""What goes wrong around the request that goes ahead of a fan-out: a socket that misbehaves."""

import asyncio
import json
import threading
from contextlib import contextmanager

import pytest
from helpers import await_until
from langchain_core import exceptions as langchain
from langchain_core.messages import HumanMessage, SystemMessage
from llama_servers import misbehaving, response

from langgraph_kvfork import ChatKVForkServer, ForkNode, ForkReport

LETTER = [SystemMessage("Dear Ada, the pump in the garden broke. " * 50)]
ENDPOINTS = {
    "/v1/models": {"data": [{"id": "llama", "owned_by": "sglang"}]},
    "/get_server_info": {"schedule_policy": "fcfs", "enable_cache_report": True},
}


def answer(connection, cached=480):
    message = {"role": "assistant", "content": "Yes."}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    usage = {"prompt_tokens": 500, "completion_tokens": 1, "total_tokens": 501}
    usage["prompt_tokens_details"] = {"cached_tokens": cached}
    whole = {"id": "1", "object": "chat.completion", "created": 1, "model": "llama"}
    connection.sendall(
        response("200 OK", json.dumps({**whole, "choices": choices, "usage": usage}))
    )


@contextmanager
def sglang(ahead, branch=answer):
    """Run a server with SGLang's default policy; yield its address and what it was asked."""
    asked = []

    def serve(connection, head, body):
        path = head.split()[1]
        if path != "/v1/chat/completions":
            found = ENDPOINTS.get(path)
            status = "404 Not Found" if found is None else "200 OK"
            connection.sendall(response(status, json.dumps(found or {})))
            return
        is_ahead = json.loads(body).get("max_tokens") == 1
        asked.append("ahead" if is_ahead else "branch")
        (ahead if is_ahead else branch)(connection)

    with misbehaving(serve) as url:
        yield url, asked


def panel(url, n=4, **kwargs):
    llm = ChatKVForkServer(base_url=url, max_retries=0, **kwargs)
    node = ForkNode(llm, [f"{i}?" for i in range(n)], on_error="collect")
    return node.ainvoke({"messages": LETTER})


def refuses(status):
    return lambda connection: connection.sendall(response(status, '{"error": {}}'))


def hangs_up(connection):
    """Say nothing, as a server that ends."""


def waits_for_the_client(closed):
    def wait(connection):
        while connection.recv(4096):
            pass
        closed.set()

    return wait


@pytest.mark.parametrize(
    "ahead",
    [refuses("500 Internal Server Error"), refuses("429 Too Many Requests"), hangs_up],
    ids=["500", "429", "hangs up"],
)
async def test_a_request_ahead_that_fails_harms_no_branch(ahead):
    with sglang(ahead) as (url, asked), ForkReport() as report:
        branches = (await panel(url))["branches"]
    assert [branch.text for branch in branches] == ["Yes."] * 4
    assert asked == ["ahead"] + ["branch"] * 4
    # nothing is counted that nobody has said
    assert report.prefilled_tokens == 4 * 20


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": 500}, {"prompt_tokens_details": None}]
)
async def test_a_request_ahead_may_report_nothing(usage):
    def silent(connection):
        connection.sendall(response("200 OK", json.dumps({"choices": [], "usage": usage})))

    with sglang(silent) as (url, _), ForkReport() as report:
        await panel(url)
    assert report.prefilled_tokens == 4 * 20


async def test_a_request_ahead_is_counted_with_the_first_branch():
    def cold(connection):
        answer(connection, cached=0)

    with sglang(cold) as (url, _), ForkReport() as report:
        await panel(url)
    assert report.prefilled_tokens == 500 + 4 * 20
    first, *others = report.calls
    assert {call.parent_id for call in others} == {first.branch_id}


async def test_a_server_that_restarts_between_the_request_ahead_and_the_branches():
    up = threading.Event()

    def branch(connection):
        if up.is_set():
            answer(connection)

    with sglang(answer, branch) as (url, asked):
        ends = (await panel(url))["branches"]
        assert all(isinstance(end, langchain.ModelConnectionError) for end in ends)
        assert all(end.is_retryable for end in ends)
        up.set()
        branches = (await panel(url))["branches"]
    assert [branch.text for branch in branches] == ["Yes."] * 4
    assert asked.count("ahead") == 2  # what had it is gone


async def test_who_gives_up_during_the_request_ahead_ends_it():
    closed = threading.Event()
    with sglang(waits_for_the_client(closed)) as (url, asked):
        fan_out = asyncio.ensure_future(panel(url))
        await await_until(lambda: asked == ["ahead"])
        fan_out.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fan_out
        await await_until(closed.is_set)
    assert asked == ["ahead"]


async def test_one_branch_that_gives_up_leaves_the_others_theirs():
    go = threading.Event()

    def ahead(connection):
        assert go.wait(30)
        answer(connection)

    with sglang(ahead) as (url, asked):
        llm = ChatKVForkServer(base_url=url)
        calls = [
            asyncio.ensure_future(llm.ainvoke([*LETTER, HumanMessage(f"{i}?")])) for i in range(3)
        ]
        await await_until(lambda: asked == ["ahead"])
        calls[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls[0]
        go.set()
        assert [answer.text for answer in await asyncio.gather(*calls[1:])] == ["Yes."] * 2
    assert asked == ["ahead", "branch", "branch"]


async def test_a_stream_that_breaks_off_harms_no_other():
    broken = threading.Lock()

    def branch(connection):
        if broken.acquire(blocking=False):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{")
        else:
            answer(connection)

    with sglang(answer, branch) as (url, _):
        ends = (await panel(url))["branches"]
    failed = [end for end in ends if isinstance(end, Exception)]
    assert len(failed) == 1
    assert isinstance(failed[0], langchain.ModelConnectionError)
    assert [end.text for end in ends if end not in failed] == ["Yes."] * 3


async def test_a_call_that_is_told_when_to_come_again_comes_again():
    busy = threading.Semaphore(2)

    def branch(connection):
        if busy.acquire(blocking=False):
            connection.sendall(
                response("429 Too Many Requests", '{"error": {}}', "Retry-After: 0.01")
            )
        else:
            answer(connection)

    with sglang(answer, branch) as (url, asked):
        llm = ChatKVForkServer(base_url=url, max_retries=2)
        ends = (await ForkNode(llm, ["a?", "b?"]).ainvoke({"messages": LETTER}))["branches"]
    assert [end.text for end in ends] == ["Yes."] * 2
    assert asked.count("branch") == 4
