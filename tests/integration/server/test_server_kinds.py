"""The requests that vLLM, SGLang and routers get.

Small servers answer here as these do; `make test-vllm` asks real ones.
"""

import json
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager

import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from llama_servers import misbehaving, response

from langgraph_kvfork import ChatKVForkServer, ForkNode, ForkReport, PrefillNode, ServerWarning
from langgraph_kvfork.cli.main import main
from langgraph_kvfork.server.affinity import Affinity
from langgraph_kvfork.server.prompt_text import alike, common_text, common_tokens

LETTER = [SystemMessage("Dear Ada, the pump in the garden broke. " * 50)]
VLLM = {
    "/v1/models": {"data": [{"id": "llama", "owned_by": "vllm", "max_model_len": 4096}]},
    "/version": {"version": "0.32.0"},
}
SGLANG = {
    "/v1/models": {"data": [{"id": "llama", "owned_by": "sglang", "max_model_len": 4096}]},
    "/get_server_info": {
        "version": "0.5.23",
        "schedule_policy": "fcfs",
        "enable_cache_report": True,
    },
}
LPM = {**SGLANG, "/get_server_info": {"version": "0.5.23", "schedule_policy": "lpm"}}


@contextmanager
def answering(endpoints, *, cached=None):
    """Run a server with these endpoints; yield its address, and the chat requests that it got."""
    requests = []

    def answer(connection, head, body):
        path = head.split()[1]
        if path != "/v1/chat/completions":
            found = endpoints.get(path)
            status = "404 Not Found" if found is None else "200 OK"
            connection.sendall(response(status, json.dumps(found or {})))
            return
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
        requests.append((time.monotonic(), json.loads(body), headers))
        time.sleep(0.05)
        usage = {"prompt_tokens": 500, "completion_tokens": 1, "total_tokens": 501}
        if cached is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": cached}
        message = {"role": "assistant", "content": "Yes."}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        whole = {"id": "1", "object": "chat.completion", "created": 1, "model": "llama"}
        text = json.dumps({**whole, "choices": choices, "usage": usage})
        connection.sendall(response("200 OK", text))

    with misbehaving(answer) as url:
        yield url, requests


def ahead_of(requests):
    """Return the requests of one token that came before all others."""
    first = [each for each in requests if each[1].get("max_tokens") == 1]
    others = [each for each in requests if each not in first]
    if others and first:
        assert max(each[0] for each in first) + 0.05 <= min(each[0] for each in others)
    return first


async def panel(url, n=4, **kwargs):
    llm = ChatKVForkServer(base_url=url, **kwargs)
    return (await ForkNode(llm, [f"{i}?" for i in range(n)]).ainvoke({"messages": LETTER}))[
        "branches"
    ]


@pytest.mark.parametrize(
    ("endpoints", "kind", "version", "n_ahead"),
    [(VLLM, "vllm", "0.32.0", 0), (SGLANG, "sglang", "0.5.23", 1), (LPM, "sglang", "0.5.23", 0)],
)
async def test_each_server_gets_what_lets_it_share(endpoints, kind, version, n_ahead):
    with answering(endpoints, cached=480) as (url, requests):
        with ForkReport() as report:
            await panel(url)
        facts = await ChatKVForkServer(base_url=url).aserver_facts()
    assert (facts.kind, facts.version, facts.model, facts.n_ctx) == (kind, version, "llama", 4096)
    assert len(ahead_of(requests)) == n_ahead
    assert len(requests) == 4 + n_ahead
    assert {each[1]["model"] for each in requests} == {"llama"}  # the first that it serves
    # what the request ahead computed, its branch has not forked
    assert report.forked_tokens == 4 * 480 - n_ahead * 20
    assert report.prefill_ms_per_token is None  # it reports no times


async def test_another_server_is_left_to_itself():
    with answering({"/v1/models": {"data": [{"id": "x"}]}}, cached=0) as (url, requests):
        await panel(url)
    assert len(requests) == 4


async def test_replicas_are_warmed_once_each_and_have_a_key_each():
    both = {"affinity_header": "X-Session-ID", "affinity_key": "prompt_cache_key"}
    with answering(VLLM, cached=480) as (url, requests):
        await panel(url, n=6, replicas=2, branches_per_replica=3, **both)
        assert len(ahead_of(requests)) == 2
        keys = [body["prompt_cache_key"] for _, body, _ in requests]
        headers = {name.lower(): value for name, value in requests[0][2].items()}
        assert headers["x-session-id"] == keys[0]
        assert sorted(keys.count(key) for key in set(keys)) == [4, 4]
        # a later one that begins alike goes where the first one went
        await panel(url, n=6, replicas=2, branches_per_replica=3, **both)
        assert {body["prompt_cache_key"] for _, body, _ in requests} == set(keys)


async def test_a_namespace_is_a_salt():
    with answering(VLLM, cached=0) as (url, requests):
        await panel(url, namespace="tenant 7")
    assert {body["cache_salt"] for _, body, _ in requests} == {"tenant 7"}


async def test_what_is_not_reported_is_named_once_with_its_flag():
    with answering(VLLM) as (url, _):
        missing = pytest.warns(ServerWarning, match="--enable-prompt-tokens-details")
        with missing, ForkReport() as report:
            branches = await panel(url)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            await panel(url)
    assert all("cache_read" not in b.usage_metadata["input_token_details"] for b in branches)
    assert (report.calls, report.unreported) == ([], 4)
    assert "4 calls are left out" in str(report)


async def test_a_prefill_node_is_a_request_of_one_token():
    with answering(SGLANG, cached=0) as (url, requests):
        llm = ChatKVForkServer(base_url=url)
        with ForkReport() as report:
            await PrefillNode(llm).ainvoke({"messages": LETTER})
    assert [body["max_completion_tokens"] for _, body, _ in requests] == [1]
    assert report.ahead_tokens == 500


async def test_share_prefix_false_sends_what_chat_openai_sends():
    with answering(SGLANG, cached=0) as (url, requests):
        await panel(url, share_prefix=False)
    assert len(requests) == 4
    assert {name for _, body, _ in requests for name in body} == {"messages", "model", "stream"}


def test_doctor_says_what_would_help(capsys):
    with answering(SGLANG) as (url, _):
        assert main(["doctor", "--server", url]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "server: sglang 0.5.23" in out
    assert "4,096 tokens a prompt" in out
    assert "--schedule-policy lpm" in out
    assert main(["doctor", "--server", "http://127.0.0.1:9"]) == 1
    assert "No server answers at http://127.0.0.1:9" in capsys.readouterr().err


def test_the_package_does_not_need_langchain_openai():
    program = (
        "import sys; sys.modules['langchain_openai'] = None\n"
        "from langgraph_kvfork import *\n"
        "import langgraph_kvfork\n"
        "try: langgraph_kvfork.ChatKVForkServer\n"
        "except langgraph_kvfork.MissingPackageError as error: print(error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "langgraph-kvfork[server]" in ran.stdout


def test_what_begins_alike():
    a, b, c = "a" * 3000, "a" * 2000 + "b" * 1000, "c" * 3000
    assert alike([a, b, c, a]) == [[0, 1, 3], [2]]
    assert alike(["short", "short"]) == [[0], [1]]
    assert common_text([a, b]) == "a" * 2000
    assert common_tokens([[1, 2, 3], [1, 2], [1, 2, 4]]) == 2
    assert common_tokens([[1], [2]]) == 0


def test_shares_are_as_few_and_as_equal_as_can_be():
    assert Affinity("x").shares(5) == [0] * 5
    assert Affinity("x", replicas=2, most=3).shares(6) == [0, 0, 0, 1, 1, 1]
    assert Affinity("x", replicas=2, most=1).shares(4) == [0, 0, 1, 1]
    assert Affinity("x", replicas=9, most=2).shares(1) == [0]


def test_one_line_changes():
    from langgraph_kvfork import ChatKVFork

    for llm in (ChatKVFork(), ChatKVForkServer(base_url="http://localhost:8000")):
        PrefillNode(llm.bind(temperature=0))
        ForkNode(llm, [HumanMessage("?")])
