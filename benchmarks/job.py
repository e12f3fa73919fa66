"""What a measuring process is given, and what it returns.

Every measurement is a process of its own, so that nobody inherits another one's threads or caches:
`python -m benchmarks.<program>` reads a job from standard input and writes what it found to
standard output, both as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
STOCK = ROOT / "build" / "stock" / "bin"
"""Where `make bench` builds llama.cpp as it is, from the source that ours is made of."""


@dataclass(frozen=True)
class Job:
    """What to measure.

    Attributes:
        contestant: Who is measured; a program may serve several, also several in turn ("a+b").
        model_path: The model file.
        threads: Threads, for everything.
        document: What all branches read.
        prefix: Its tokens: what the branches' prompts have in common.
        questions: One per branch.
        more_questions: As many others, about the same document.
        suffix: Tokens of the longest prompt after the prefix.
        generate: Tokens to generate per branch.
    """

    contestant: str
    model_path: str
    threads: int
    document: str = ""
    prefix: int = 0
    questions: list[str] = field(default_factory=list)
    more_questions: list[str] = field(default_factory=list)
    suffix: int = 0
    generate: int = 0

    @property
    def own_tokens(self) -> int:
        """What one branch needs beside the prefix, and beside a page that it may have to copy."""
        return _whole_pages(self.suffix + self.generate) + 64

    @property
    def pool_tokens(self) -> int:
        """Context for all branches, if they share the prefix."""
        return _whole_pages(self.prefix) + len(self.questions) * self.own_tokens

    @property
    def branch_tokens(self) -> int:
        """Context for one branch that shares nothing."""
        return self.prefix + self.own_tokens


def _whole_pages(n_tokens: int) -> int:
    return -(-n_tokens // 64) * 64


@dataclass(frozen=True)
class Found:
    """One thing that was measured.

    Attributes:
        name: Its name among what is measured with it: "first", "next", "decode 8 at 7000", ...
        seconds: Its time.
        prefilled: Prompt tokens that were computed.
        generated: Tokens that were generated.
        cells: Cells of the KV cache that were in use.
        peak: Bytes of memory that the process had at its peak.
        pages: Pages of the KV cache that a step read.
        contestant: Whose it is, of those that the process measured; None: there was only one.
    """

    name: str
    seconds: float
    prefilled: int | None = None
    generated: int | None = None
    cells: int | None = None
    peak: int | None = None
    contestant: str | None = None
    pages: float | None = None


def serve(measure: Callable[[Job], Iterable[Found]]) -> None:
    """Do what a measuring process does."""
    job = Job(**json.load(sys.stdin))
    # what libraries print goes to the log, where the runner sent standard error
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    found = [dataclasses.asdict(one) for one in measure(job)]
    with answer:
        json.dump(found, answer)
