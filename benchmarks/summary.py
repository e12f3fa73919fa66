"""What tables and plots are drawn from: the rounds of each measurement, put together."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from benchmarks.contestants import CONTESTANTS
from benchmarks.grid import Task
from benchmarks.results import Results


@dataclass(frozen=True)
class Summary:
    """One thing that was measured, in all rounds.

    Attributes:
        seconds: Every time.
        prefilled: Prompt tokens that were computed, in the last round; None: it does not say.
        cells: Cells of the KV cache that were in use, likewise.
        peak: Most bytes that the process had, likewise.
        pages: Pages of the KV cache that a step read, on average over the rounds.
    """

    seconds: tuple[float, ...]
    prefilled: int | None
    cells: int | None = None
    peak: int | None = None
    pages: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def rounds(self) -> int:
        return len(self.seconds)

    def __str__(self) -> str:
        """Give the median, and the spread behind it if there was more than one round."""
        text = time_text(self.median)
        if self.rounds == 1:
            return text
        low, high = (time_text(f(self.seconds), like=self.median) for f in (min, max))
        return f"{text} ({low.split()[0]} to {high.split()[0]})"


class Cell(NamedTuple):
    """A fan-out, run by one contestant."""

    model: str
    prefix: int
    branches: int
    generate: int


@dataclass(frozen=True)
class Row:
    """What became of a fan-out with one contestant, or the fastest of those of one label.

    Attributes:
        label: Its name.
        ours: Whether it is this project's work.
        first: A fan-out of which only a warmed contestant knows something; None: it failed.
        next: One with other questions about the same document; None: there was none.
        error: Why a round of it failed; "": none did.
    """

    label: str
    ours: bool
    first: Summary | None = None
    next: Summary | None = None
    error: str = ""


class Summaries:
    """All of a file of results.

    Attributes:
        found: What was measured, by task and by name.
        errors: Why a task found nothing in a round, the last one.
    """

    def __init__(self, results: Results) -> None:
        self.errors: dict[Task, str] = {}
        rounds = defaultdict(list)
        for one in results["measurements"]:
            task = Task.of(one)
            if one["error"]:
                self.errors[task] = one["error"]
            for found in one["found"]:
                whose = found.get("contestant") or task.contestant
                rounds[replace(task, contestant=whose), found["name"]].append(found)
        self.found = {
            (task, name): Summary(
                seconds=tuple(one["seconds"] for one in found),
                prefilled=found[-1]["prefilled"],
                cells=found[-1].get("cells"),
                peak=found[-1].get("peak"),
                pages=_mean([one["pages"] for one in found if one.get("pages")]),
            )
            for (task, name), found in rounds.items()
        }

    def tasks(self, benchmark: str) -> list[Task]:
        """List the tasks of a benchmark, measured or failed, in the order of the file."""
        every = [*(task for task, _ in self.found), *self.errors]
        return [task for task in dict.fromkeys(every) if task.benchmark == benchmark]

    def cells(self) -> list[Cell]:
        """List the fan-outs."""
        tasks = self.tasks("fan-out")
        return list(dict.fromkeys(Cell(t.model, t.prefix, t.branches, t.generate) for t in tasks))

    def rows(self, cell: Cell) -> list[Row]:
        """Return what became of a fan-out, a row for each label, in the order of `CONTESTANTS`."""
        by_label = defaultdict(list)
        for name, contestant in CONTESTANTS.items():
            task = Task("fan-out", name, cell.model, cell.branches, cell.prefix, cell.generate)
            first, next_ = (self.found.get((task, part)) for part in ("first", "next"))
            error = self.errors.get(task, "")
            if first or error:
                row = Row(contestant.label, contestant.ours, first, next_, error)
                by_label[row.label].append(row)
        return [_fastest(rows) for rows in by_label.values()]


def _mean(values: list[float]) -> float | None:
    return statistics.mean(values) if values else None


def _fastest(rows: Iterable[Row]) -> Row:
    return min(rows, key=lambda row: row.first.median if row.first else float("inf"))


def time_text(seconds: float, like: float | None = None) -> str:
    """Write a time with three digits, in the unit that suits it, or that suits `like`."""
    scale = seconds if like is None else like
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if scale * factor >= 1:
            return f"{_three_digits(seconds * factor)} {unit}"
    return f"{_three_digits(seconds * 1e6)} µs"


def _three_digits(number: float) -> str:
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"
