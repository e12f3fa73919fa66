"""What a user copies from the documentation works."""

import re
import shlex
from pathlib import Path

import pytest

from langgraph_kvfork import ChatKVFork
from langgraph_kvfork.cli.main import _parser

ROOT = Path(__file__).parents[3]
PAGES = {
    str(path.relative_to(ROOT / "docs")): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs").rglob("*.md"))
}


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module", autouse=True)
def _one_engine_for_all_pages(llm):
    yield
    ChatKVFork().engine.close()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_a_pages_code_runs_from_its_beginning_to_its_end(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    namespace = {"__name__": "page"}
    try:
        for code in blocks(page, "python"):
            exec(compile(code, page, "exec"), namespace)
    finally:
        if "provider" in namespace:  # of metrics: it would go on exporting when all tests are over
            namespace["provider"].shutdown()


def test_commands_are_ones_that_there_are():
    lines = [
        shlex.split(line, comments=True)
        for page in PAGES
        for block in blocks(page, "sh")
        for line in block.splitlines()
    ]
    calls = [line[3:] for line in lines if line[1:3] == ["-m", "langgraph_kvfork"]]
    assert {call[0] for call in calls} == {"bench", "cache", "demo", "doctor", "inspect", "report"}
    for call in calls:
        _parser().parse_args(call)  # exits if it is wrong
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [line[1] for line in lines if line[:1] == ["make"]]
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
