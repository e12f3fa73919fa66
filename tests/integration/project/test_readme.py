"""What a user copies from the README works."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def run(*command, **kwargs):
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=True, **kwargs
    ).stdout


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda code: code.splitlines()[-1][:40])
def test_code_runs_as_it_is(snippet):
    assert run(sys.executable, "-c", snippet).strip()


def test_its_first_screen_has_ten_lines_of_code_and_the_measured_table():
    first = README.split("## ")[0]
    assert len([line for line in SNIPPETS[0].splitlines() if line.strip()]) <= 10
    assert SNIPPETS[0] in first
    for who in (r"\*\*ChatKVFork\*\*", "llama-cpp-python", "llama-server"):
        assert re.search(rf"^\| {who}.* \| [\d.]+ s", first, flags=re.MULTILINE)


def test_its_commands_are_targets_of_the_makefile():
    commands = re.findall(r"^(make \w+)", README, flags=re.MULTILINE)
    assert commands == ["make demo", "make test"]
    assert "-m langgraph_kvfork demo" in run("make", "--dry-run", "demo")
    test = run("make", "--dry-run", "test")
    for step in ("ruff check", "mypy", "clang-format", "check_patches.py", "ctest", "-m pytest"):
        assert step in test


def test_the_demo_runs_and_prints_its_table():
    arguments = ["demo", "--branches", "2", "--max-tokens", "8"]
    printed = run(sys.executable, "-m", "langgraph_kvfork", *arguments)
    columns = {
        line.split("│")[1].strip(): [c.strip() for c in line.split("│")[2:4]]
        for line in printed.splitlines()
        if line.count("│") >= 3
    }
    shared, alone = (int(c.replace(",", "")) for c in columns["prefilled tokens"])
    assert shared * 2 < alone
    assert columns["forked tokens"][1] == "0"
    assert re.search(r"Sharing took 1/\d", printed)
