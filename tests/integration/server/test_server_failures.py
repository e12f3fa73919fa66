"""What goes wrong with a server: against a real one, and a real socket that misbehaves."""

import email.utils
import json
import threading
import time
from datetime import datetime, timedelta, timezone

import openai
import pytest
from fan_outs import WAYS_TO_CANCEL, cancel
from helpers import call, wait_until
from langchain_core import exceptions as langchain
from langchain_core.messages import HumanMessage, SystemMessage
from llama_servers import LlamaServer, misbehaving, response

from langgraph_kvfork import (
    BranchCancelledError,
    ChatKVForkServer,
    ContextOverflowError,
    ForkNode,
    InvalidRequestError,
    KVForkError,
)

LONG = "Count, and say nothing else: one, two, three, " * 40


def chat(url, **kwargs):
    return ChatKVForkServer(base_url=url, temperature=0, max_retries=0, **kwargs)


def say(connection, head, body, *chunks, model="m"):
    """Answer as an OpenAI-compatible server: its models, and then what comes."""
    if head.startswith("GET /v1/models"):
        connection.sendall(response("200 OK", json.dumps({"data": [{"id": model}]})))
    elif head.startswith("POST /v1/chat"):
        for chunk in chunks:
            connection.sendall(chunk)
    else:
        connection.sendall(response("404 Not Found", "{}"))


def refusing(status, body='{"error": {"message": "no."}}', *headers):
    return lambda *request: say(*request, response(status, body, *headers))


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_nobody_answers(asynchronous):
    llm = chat("http://127.0.0.1:9")
    with pytest.raises(langchain.ModelConnectionError, match="start it, or correct base_url") as no:
        await call(llm, "Hello", asynchronous=asynchronous)
    assert isinstance(no.value, KVForkError)
    assert isinstance(no.value, openai.APIConnectionError)
    assert no.value.is_retryable


@pytest.mark.parametrize(
    ("status", "kind", "sentence"),
    [
        ("401 Unauthorized", langchain.ModelAuthenticationError, "Pass api_key="),
        ("403 Forbidden", langchain.ModelPermissionDeniedError, "Pass an api_key"),
        ("404 Not Found", langchain.ModelNotFoundError, "Correct model"),
        ("429 Too Many Requests", langchain.ModelRateLimitError, "max_concurrency"),
        ("400 Bad Request", langchain.ModelInvalidRequestError, "refuses the request"),
        ("500 Internal Server Error", langchain.ModelAPIError, "See its log"),
        ("503 Service Unavailable", langchain.ModelAPIError, "See its log"),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
async def test_a_refusal_is_langchains_and_says_what_to_change(status, kind, sentence, streams):
    with misbehaving(refusing(status)) as url:
        llm = chat(url)
        with pytest.raises(kind, match=sentence) as refused:
            await (all_chunks(llm, []) if streams else llm.ainvoke("Hello"))
    assert isinstance(refused.value, KVForkError)
    assert refused.value.is_retryable == (status[0] == "5" or status.startswith("429"))


async def test_a_busy_server_says_when_to_come_again():
    too_many = refusing("429 Too Many Requests", '{"error": {}}', "Retry-After: 7")
    sentence = "after 7 seconds"
    with (
        misbehaving(too_many) as url,
        pytest.raises(langchain.ModelRateLimitError, match=sentence) as refused,
    ):
        await chat(url).ainvoke("Hello")
    assert refused.value.retry_after == 7


async def test_a_busy_server_may_say_it_with_a_date():
    date = email.utils.format_datetime(datetime.now(timezone.utc) + timedelta(seconds=60), True)
    too_many = refusing("429 Too Many Requests", '{"error": {}}', f"Retry-After: {date}")
    with misbehaving(too_many) as url, pytest.raises(langchain.ModelRateLimitError) as refused:
        await chat(url).ainvoke("Hello")
    assert 50 < refused.value.retry_after <= 60


@pytest.mark.parametrize("after", ["soon", ""])
async def test_a_busy_server_may_say_nothing_that_is_understood(after):
    too_many = refusing("429 Too Many Requests", '{"error": {}}', f"Retry-After: {after}")
    with misbehaving(too_many) as url, pytest.raises(langchain.ModelRateLimitError) as refused:
        await chat(url).ainvoke("Hello")
    assert refused.value.retry_after is None
    assert "Call again later" in str(refused.value)


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 2048 tokens. However, you requested 4000 tokens.",
        "The input (4000 tokens) is longer than the model's context length (2048 tokens).",
        "Requested token count exceeds the model's maximum context length of 2048 tokens.",
    ],
)
async def test_an_overflow_in_the_words_of_servers_that_cannot_run_here(message):
    too_long = refusing("400 Bad Request", json.dumps({"error": {"message": message}}))
    with (
        misbehaving(too_long) as url,
        pytest.raises(ContextOverflowError, match="--max-model-len") as refused,
    ):
        await chat(url).ainvoke("Hello")
    assert isinstance(refused.value, langchain.ContextOverflowError)
    assert isinstance(refused.value, openai.BadRequestError)


async def all_chunks(llm, texts):
    async for chunk in llm.astream("Hello"):
        texts.append(chunk.text)


async def all_chunks_in_a_thread(llm, texts):
    for chunk in llm.stream("Hello"):
        texts.append(chunk.text)


def piece(text, **choice):
    chunk = {"choices": [{"index": 0, "delta": {"content": text}, **choice}], "object": "x"}
    return f"data: {json.dumps(chunk)}\n\n".encode()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"


@pytest.mark.parametrize("announced", [b"", b"Content-Length: 9999\r\n"])
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_stream_that_breaks_off_is_no_whole_answer(announced, asynchronous):
    half = (HEAD + announced + b"\r\n", piece("Half an "), piece("ans"))
    with misbehaving(lambda *request: say(*request, *half)) as url:
        llm, texts = chat(url), []
        ask = all_chunks if asynchronous else all_chunks_in_a_thread
        with pytest.raises(langchain.ModelConnectionError, match="not the whole answer"):
            await ask(llm, texts)
    assert "".join(texts).startswith("Half")


async def test_a_branch_that_is_refused_harms_no_other():
    def some(connection, head, body):
        if "dates" in body:
            say(connection, head, body, response("500 Internal Server Error", "{}"))
        else:
            message = {"role": "assistant", "content": "Here."}
            usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            whole = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
            answer = json.dumps({**whole, "choices": choices, "usage": usage})
            say(connection, head, body, response("200 OK", answer))

    with misbehaving(some) as url:
        node = ForkNode(chat(url), {"risks": "risks?", "dates": "dates?"}, on_error="collect")
        with pytest.warns(UserWarning, match="does not report"):
            ends = (await node.ainvoke({"messages": [SystemMessage(LONG)]}))["branches"]
    assert ends["risks"].text == "Here."
    # what is not reported is not shown as 0
    assert "cache_read" not in ends["risks"].usage_metadata["input_token_details"]
    assert isinstance(ends["dates"], langchain.ModelAPIError)


#
# a real server
#


async def test_a_key_that_is_wrong(tmp_path):
    with LlamaServer("apart", slots=1, n_ctx=512, key="secret") as server:
        with pytest.raises(langchain.ModelAuthenticationError, match="api_key"):
            await chat(server.url).ainvoke("Hello")
        answer = await chat(server.url, api_key="secret", max_tokens=2).ainvoke("Hello")
        assert answer.usage_metadata["output_tokens"] == 2
        # it ends: calls fail, and come again when another one answers at its address
        server.kill()
        with pytest.raises(langchain.ModelConnectionError, match="start it"):
            await chat(server.url, api_key="secret").ainvoke("Hello")


async def test_a_prompt_that_does_not_fit(single):
    with pytest.raises(ContextOverflowError, match="--ctx-size") as refused:
        await chat(single.url).ainvoke("word " * 3000)
    assert not refused.value.is_retryable


@pytest.mark.parametrize("how", WAYS_TO_CANCEL)
async def test_after_a_cancel_nothing_runs_on_the_server(single, how):
    llm = chat(single.url, max_tokens=2000, extra_body={"ignore_eos": True})
    await cancel(llm, how, single)


def test_a_race_in_threads_leaves_nothing_running(single):
    slow = chat(single.url, max_tokens=2000, extra_body={"ignore_eos": True})
    from langgraph_kvfork import ForkBranch

    quick = ForkBranch("Say yes.", chat(single.url, max_tokens=1))
    node = ForkNode(slow, {"slow": "Count to a million.", "quick": quick}, race=True)
    ends = node.invoke({"messages": [SystemMessage("Be brief.")]})["branches"]
    assert list(ends) == ["quick"]
    wait_until(lambda: single.running == 0)


def test_ctrl_c_in_a_thread_leaves_nothing_running(single):
    llm = chat(single.url, max_tokens=2000, extra_body={"ignore_eos": True})
    from langgraph_kvfork.branches.cancel_scope import cancel_scope

    raised = []

    def run(scope_is_open):
        with cancel_scope() as scope:
            scope_is_open.append(scope)
            try:
                llm.invoke("Count to a million.")
            except BranchCancelledError as error:
                raised.append(error)

    scopes = []
    thread = threading.Thread(target=run, args=(scopes,))
    thread.start()
    wait_until(lambda: single.running == 1)
    scopes[0].cancel()
    thread.join(30)
    assert len(raised) == 1
    wait_until(lambda: single.running == 0)


async def test_a_server_that_restarts_before_its_fan_out(document, tmp_path):
    messages = [SystemMessage(document[0].content[:2000])]
    with LlamaServer("unified", "--slot-save-path", f"{tmp_path}/", n_ctx=4096) as server:
        llm = chat(server.url, max_tokens=2)
        await llm.aprefill(messages)
        server.kill()
        with server:
            # no slot has the prefix, and the file is still there
            before = server.computed
            state = await ForkNode(llm, ["A?", "B?", "C?"]).ainvoke({"messages": messages})
            n = state["branches"][0].usage_metadata["input_tokens"]
            assert server.computed - before < n
            # nor is the file
            for path in tmp_path.iterdir():
                path.unlink()
            state = await ForkNode(llm, ["D?", "E?"]).ainvoke({"messages": messages})
            assert len(state["branches"]) == 2


async def test_what_a_server_cannot_do_is_refused_by_name(single):
    with pytest.raises(InvalidRequestError, match=r"namespace='a'.*vLLM and SGLang can"):
        await chat(single.url, namespace="a").ainvoke("Hello")
    answer = await chat(single.url, grammar='root ::= "yes"').ainvoke([HumanMessage("Is it?")])
    assert answer.text == "yes"


def test_a_time_limit(single):
    llm = chat(single.url, timeout=0.3, max_tokens=2000, extra_body={"ignore_eos": True})
    begin = time.monotonic()
    with pytest.raises(langchain.ModelTimeoutError, match="raise timeout"):
        llm.invoke("Count to a million.")
    assert time.monotonic() - begin < 30
    wait_until(lambda: single.running == 0)
