"""The LangGraph development server runs the example, and its runs share their document."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

if sys.version_info < (3, 11):
    pytest.skip("the LangGraph server needs Python 3.11", allow_module_level=True)

import httpx
from langgraph_sdk import get_sync_client

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "running" / "langgraph-server.md").read_text(encoding="utf-8")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The server as the guide starts it, on a free port, in a copy that it may write into."""
    folder = tmp_path_factory.mktemp("server") / "example"
    shutil.copytree(
        ROOT / "examples" / "langgraph-server", folder, ignore=shutil.ignore_patterns(".*", "__*")
    )
    url = f"http://127.0.0.1:{free_port()}"
    arguments = re.search(r"^langgraph dev (.*)$", GUIDE, re.MULTILINE)[1].split()
    command = [
        sys.executable,
        "-m",
        "langgraph_cli",
        "dev",
        *arguments,
        "--port",
        url.split(":")[2],
    ]
    environment = {**os.environ, "LANGGRAPH_CLI_NO_ANALYTICS": "1", "LANGSMITH_TRACING": "false"}
    log = folder.parent / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_for(url, process, log)
        yield url, log
    finally:
        process.terminate()
        process.wait(30)


def wait_for(url, process, log):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(f"{url}/ok").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail(f"the server did not start: {log.read_text()}")


def test_the_guides_client_works_and_its_second_run_forks_the_document(server, monkeypatch, capsys):
    url, log = server
    monkeypatch.chdir(ROOT)
    client = re.search(r"client\.py\"\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)[1]
    exec(client.replace("http://localhost:2024", url), {"__name__": "client"})
    printed = capsys.readouterr().out
    done, total = map(int, re.search(r"'done': (\d+), 'total': (\d+)", printed).groups())
    assert done == total > 300
    forked = [int(n) for n in re.findall(r"'cache_read': (\d+)", printed)]
    computed = [int(n) for n in re.findall(r"'cache_creation': (\d+)", printed)]
    assert len(forked) == len(computed) == 6
    assert min(forked) >= total
    # only the question, or what of it the first assistant's was not
    assert max(computed) < 25
    for name in ("risks", "duties", "dates"):
        assert re.search(rf"^{name} '\w+'$", printed, re.MULTILINE)
    assert "Blocking call" not in log.read_text()


def test_runs_at_the_same_time_prefill_their_document_once(server):
    url, _ = server
    client = get_sync_client(url=url)
    text = (ROOT / "NOTICE").read_text(encoding="utf-8")
    state = {"messages": [{"role": "system", "content": text}]}

    def run(audience):
        assistant = client.assistants.create("panel", context={"audience": audience})
        thread = client.threads.create()
        return client.runs.wait(thread["thread_id"], assistant["assistant_id"], input=state)

    with ThreadPoolExecutor() as pool:
        results = list(pool.map(run, ("a poet", "a judge", "a child")))
    answers = [answer for result in results for answer in result["branches"].values()]
    assert len(answers) == 9
    computed = [a["response_metadata"]["fork"]["prefilled_tokens"] for a in answers]
    assert max(computed) < 25 < min(a["usage_metadata"]["input_tokens"] for a in answers)
