"""A file of results: where, when and of what it is, and every measurement."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.job import ROOT
from langgraph_kvfork.cli.measure import machine
from langgraph_kvfork.machine.threads import default_threads
from langgraph_kvfork.native.library import bindings_version

Results = dict[str, Any]
"""What the file holds, as `new` makes it; a measurement is a task, its round and what was found."""

FOLDER = Path(__file__).parent / "results"
README = ROOT / "README.md"


def new(grid: str) -> Results:
    """Return results without a measurement."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "grid": grid,
        "machine": f"{machine()}, {memory / 2**30:.0f} GiB",
        "threads": default_threads(),
        "llama_cpp_python": bindings_version(),
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
        "measurements": [],
    }


def load(path: Path) -> Results:
    results: Results = json.loads(path.read_text("utf-8"))
    return results


def save(path: Path, results: Results) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", "utf-8")


def go_together(some: Results, others: Results) -> bool:
    """Whether measurements of both may be compared: one commit on one machine."""
    same = ("machine", "threads", "llama_cpp_python", "commit")
    return all(some[name] == others[name] for name in same)


def _commit() -> str:
    """Return the checkout's commit, marked if anything but what a run writes differs from it."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    written = [f":!{path.relative_to(ROOT)}" for path in (FOLDER, README)]
    changed = git("status", "--porcelain", "--", ".", *written)
    return git("rev-parse", "--short=12", "HEAD").strip() + ("-dirty" if changed else "")
