"""Draws tables and plots from a file of results, and writes the README's block.

`python -m benchmarks.report` does it again for every file in `results/`, without measuring.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from benchmarks import results
from benchmarks.grid import LIBRARIES, Task
from benchmarks.measures.busy import ALONE, BESIDE
from benchmarks.measures.peak import DECODED, PREFILLED, READ
from benchmarks.models import MODELS
from benchmarks.plots import draw
from benchmarks.results import README, Results
from benchmarks.summary import Cell, Summaries, Summary

README_GRID = "quick"
"""The grid whose fan-out the README shows."""

BEGIN = "<!-- `make bench` writes this from benchmarks/results/quick.json -->"
END = "<!-- end -->"


def report(all_results: Results) -> Path:
    """Write a grid's tables and plots next to its results, and the README's block; return a file.

    Returns:
        The Markdown file that has all tables and shows all plots.
    """
    path = results.FOLDER / f"{all_results['grid']}.md"
    summaries = Summaries(all_results)
    plots = draw(summaries, results.FOLDER, all_results["grid"])
    text = [f"# `make bench GRID={all_results['grid']}`", measured_on(all_results)]
    text += tables(summaries)
    text += [f"![{plot.stem}]({plot.name})" for plot in plots]
    path.write_text("\n\n".join(text) + "\n", "utf-8")
    if all_results["grid"] == README_GRID and summaries.cells():
        README.write_text(with_block(README.read_text("utf-8"), readme_block(all_results)), "utf-8")
    return path


def readme_block(all_results: Results) -> str:
    """Return what the README says of a grid: the table of its first fan-out."""
    summaries = Summaries(all_results)
    cell = summaries.cells()[0]
    where = f"The same graph on each (`make bench`): {title(cell)}, on {all_results['machine']}."
    paragraphs = [textwrap.fill(text, 100) for text in (where, FOOTNOTE)]
    return f"{paragraphs[0]}\n\n{fan_out_table(summaries, cell)}\n\n{paragraphs[1]}"


FOOTNOTE = (
    "Medians, with the fastest and the slowest round; the next fan-out asks other questions about "
    "the same document. llama-batched-bench is the limit without any scheduling: it samples "
    "nothing, and its branches have no questions. llama-server can keep its slots in one cache or "
    "in a stream each: shown is the faster."
)


def with_block(text: str, block: str) -> str:
    """Return a text whose marked block is `block`.

    Raises:
        ValueError: The text has no marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no block between {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def measured_on(all_results: Results) -> str:
    return (
        f"Measured on {all_results['date']} on {all_results['machine']}, with "
        f"{all_results['threads']} threads for everybody, in one run at commit "
        f"`{all_results['commit']}`; the peers are those of llama-cpp-python "
        f"{all_results['llama_cpp_python']}. {FOOTNOTE}"
    )


def title(cell: Cell) -> str:
    return (
        f"{count(cell.branches, 'branch', 'branches')} over {cell.prefix:,} shared tokens, "
        f"{cell.generate} generated each, {MODELS[cell.model].label}"
    )


def tables(summaries: Summaries) -> Iterator[str]:
    """Yield all tables, a title before each."""
    for cell in summaries.cells():
        yield f"## {title(cell)}"
        yield fan_out_table(summaries, cell)
    for model, one in MODELS.items():
        for name, rows_of, head in TABLES:
            if rows := list(rows_of(summaries, model)):
                yield f"## {name}, {one.label}"
                yield table(["", *head], rows)


def fan_out_table(summaries: Summaries, cell: Cell) -> str:
    """Compare the contestants at one fan-out; the first one's time is 1."""
    rows, base = [], None
    for row in summaries.rows(cell):
        label = f"**{row.label}**" if row.ours else row.label
        if row.first is None:
            rows.append([label, row.error])
            continue
        base = base or row.first.median
        cells = [label, str(row.first), f"{row.first.median / base:.1f}"]
        cells += [str(row.next or ""), f"{row.first.prefilled:,}", str(row.first.rounds)]
        rows.append(cells)
    return table(["", "fan-out", "relative", "the next", "prompt tokens computed", "rounds"], rows)


PARTS = ("steps", "prefill", "first_token")


def part_rows(summaries: Summaries, model: str) -> Iterator[list[str]]:
    """Yield what compares our library with the stock one at every part of a fan-out."""
    for (task, name), ours in summaries.found.items():
        if task.model == model and task.benchmark in PARTS and task.contestant == "kvfork":
            stock_task = dataclasses.replace(task, contestant="stock")
            stock_name = "own prefill" if task.benchmark == "first_token" else name
            stock = summaries.found.get((stock_task, stock_name))
            what = words(name, task.prefix)
            yield part_row(what, stock, ours)


def part_row(what: str, stock: Summary | None, ours: Summary) -> list[str]:
    if stock is None:
        return [what, "", str(ours), ""]
    ratio = stock.median / ours.median
    return [what, str(stock), str(ours), f"{ratio:.2f}" if ratio < 10 else f"{ratio:,.0f}"]


PRODUCTS = "of the peak in 8-bit products"
SHARES = (
    ("prefill", 512, "prefill 512", PREFILLED, 512, PRODUCTS),
    ("steps", 0, "decode 1 at 512", READ, 1, "of the memory's bandwidth"),
    ("steps", 0, "decode 8 at 512", DECODED, 8, PRODUCTS),
    ("steps", 0, "decode 32 at 512", DECODED, 32, PRODUCTS),
)
"""A part's benchmark, prefix and name; the time of `measures/peak.py` that bounds it, how often."""


def share_rows(summaries: Summaries, model: str) -> Iterator[list[str]]:
    """Yield which share of a part's time its weights would take at the machine's own peak."""
    for benchmark, prefix, name, least, times, what in SHARES:
        bound = summaries.found.get((Task("peak", "machine", model), least))
        tasks = [Task(benchmark, library, model, prefix=prefix) for library in LIBRARIES]
        parts = [summaries.found.get((task, name)) for task in tasks]
        if bound and any(parts):
            shares = [
                f"{100 * times * bound.median / one.median:.0f} %" if one else "" for one in parts
            ]
            yield [f"{words(name, prefix)}, {what}", *shares]


LOADS = {"mixed": "a mixed load", "beside": "four streams and a long prompt"}


def load_rows(summaries: Summaries, model: str) -> Iterator[list[str]]:
    """Yield what readers of streams wait for while others are served, ours beside llama-server."""
    for (task, name), ours in summaries.found.items():
        if task.model == model and task.benchmark in LOADS and task.contestant == "kvfork":
            stock = summaries.found.get((dataclasses.replace(task, contestant="stock"), name))
            yield part_row(f"{LOADS[task.benchmark]}: {name}", stock, ours)


def steady_rows(summaries: Summaries, model: str) -> Iterator[list[str]]:
    """Yield what a fan-out costs in an engine that has run for a while."""
    for (task, name), empty in summaries.found.items():
        what = name.removesuffix(" in an empty cache")
        full = summaries.found.get((task, f"{what} in a full cache"))
        if task.model == model and task.benchmark == "steady" and what != name and full:
            yield [what, str(empty), str(full), f"{full.median / empty.median:.2f}"]
            if empty.pages and full.pages:
                pages = [f"{one.pages:,.1f}" for one in (empty, full)]
                yield [f"pages that a {what} reads", *pages, f"{full.pages / empty.pages:.2f}"]


def busy_rows(summaries: Summaries, model: str) -> Iterator[list[str]]:
    """Yield what one other program makes of a fan-out, of llama.cpp's and of ours."""
    for library, whose in (("stock", "llama-batched-bench"), ("kvfork", "ChatKVFork")):
        for task in summaries.tasks("busy"):
            alone, beside = (summaries.found.get((task, name)) for name in (ALONE, BESIDE))
            if (task.contestant, task.model) == (library, model) and alone and beside:
                what = f"{whose}, {task.branches} branches, {task.prefix:,} shared"
                times = f"{beside.median / alone.median:.2f}"
                yield [what, str(alone), str(beside), times]


def kept_rows(summaries: Summaries, model: str) -> Iterator[list[str]]:
    """Yield how soon a prompt is answered that was computed before, ours beside llama-server."""
    for (task, name), ours in summaries.found.items():
        is_pair = " without a store" in name or " with one" in name
        is_ours = task.benchmark == "store" and task.contestant == "kvfork"
        if task.model == model and is_ours and not is_pair:
            stock = summaries.found.get((dataclasses.replace(task, contestant="stock"), name))
            yield part_row(f"{task.prefix:,} tokens, {name}", stock, ours)


def store_rows(summaries: Summaries, model: str) -> Iterator[list[str]]:
    """Yield what a store is worth, and what it costs those who run meanwhile."""
    for (task, name), without in summaries.found.items():
        if task.model != model or task.benchmark != "store" or task.contestant != "kvfork":
            continue
        if name == "computed" and (back := summaries.found.get((task, "from a file"))):
            what = f"an answer after {task.prefix:,} tokens"
            yield [what, str(without), str(back), f"{without.median / back.median:.1f}"]
        what = name.removesuffix(", without a store")
        kept = summaries.found.get((task, f"{what}, with one"))
        if what != name and kept:
            yield [what, str(without), str(kept), f"{without.median / kept.median:.2f}"]


MEMORY = {
    "stock": "llama.cpp, a copy of the prefix for each",
    "kvfork": "ours, the prefix once and a page for each",
}


def memory_rows(summaries: Summaries, model: str) -> Iterator[list[str]]:
    """Yield what decoding over one prefix took, with copies of it and without."""
    for (task, name), found in summaries.found.items():
        if task.model == model and task.benchmark == "memory":
            what = f"{name} tokens, {MEMORY[task.contestant]}"
            yield [what, f"{found.cells:,}", f"{(found.peak or 0) / 2**20:,.0f} MiB"]


def words(name: str, prefix: int) -> str:
    """Say what a part's name means."""
    if match := re.fullmatch(r"decode (\d+) at (\d+)(?:\+(\d+))?", name):
        own = f" and {int(match[3]):,} of their own" if match[3] else ""
        branches = count(int(match[1]), "branch", "branches")
        return f"decode step, {branches}, {int(match[2]):,} shared{own}"
    if match := re.fullmatch(r"(\D+) (\d+)", name):
        return f"{match[1]} of {int(match[2]):,} tokens"
    return f"first token after {prefix:,} tokens, {name}"


def count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """Write a Markdown table: the first column to the left, all others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    lines += [[*row, *[""] * (len(head) - len(row))] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


TABLES: tuple[tuple[str, Callable[[Summaries, str], Iterator[list[str]]], tuple[str, ...]], ...] = (
    ("Part by part", part_rows, ("llama.cpp", "ours", "times as fast")),
    ("Beside what the machine can do at most", share_rows, ("llama.cpp", "ours")),
    ("Many at a time", load_rows, ("llama-server", "ours", "times as fast")),
    ("After fifty other fan-outs", steady_rows, ("in an empty cache", "in a full one", "times")),
    ("Beside a busy program", busy_rows, ("alone", "beside it", "times")),
    ("A prompt that was computed before", kept_rows, ("llama-server", "ours", "times as fast")),
    ("With a store and without", store_rows, ("without", "with", "times as fast")),
    ("Memory", memory_rows, ("cells in use", "process at its peak")),
)
"""A model's tables in their order: the title, what yields the rows, and the columns."""


def main() -> None:
    for path in sorted(results.FOLDER.glob("*.json")):
        print(report(results.load(path)))


if __name__ == "__main__":
    main()
