"""The plots."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.models import MODELS
from benchmarks.summary import Cell, Summaries, Summary, time_text

OURS, OTHERS = "#2563eb", "#9ca3af"


def draw(summaries: Summaries, folder: Path, grid: str) -> list[Path]:
    """Draw every plot that the results have something for; return the files."""
    plots = []

    def save(name: str, size: tuple[float, float], paint: Callable[[Axes], None]) -> None:
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        paint(axes)
        axes.spines[["top", "right"]].set_visible(False)
        path = folder / f"{grid}-{name}.png"
        # no version inside: the same results are the same file
        figure.savefig(path, dpi=120, metadata={"Software": None})
        plt.close(figure)
        plots.append(path)

    series: dict[tuple[str, int, int], list[Cell]] = {}
    for cell in summaries.cells():
        series.setdefault((cell.model, cell.prefix, cell.generate), []).append(cell)
    for (model, prefix, generate), cells in series.items():
        name = f"{model}-{prefix}-{generate}".lower()
        if len(cells) == 1:
            save(f"{name}-{cells[0].branches}", (8, 3.6), partial(bars, summaries, cells[0]))
        else:
            save(name, (8, 4.8), partial(lines, summaries, cells))
    for model in dict.fromkeys(task.model for task in summaries.tasks("steps")):
        save(f"{model}-steps".lower(), (8, 4.2), partial(steps, summaries, model))
    return plots


def bars(summaries: Summaries, cell: Cell, axes: Axes) -> None:
    """Draw one fan-out of all contestants."""
    measured = {row: row.first for row in summaries.rows(cell) if row.first}
    found = list(measured.values())
    drawn = axes.barh(
        [row.label for row in measured],
        [one.median for one in found],
        color=[OURS if row.ours else OTHERS for row in measured],
        xerr=spread(found),
    )
    axes.bar_label(drawn, [time_text(one.median) for one in found], padding=4)
    axes.invert_yaxis()
    axes.margins(x=0.12)  # for the numbers
    axes.set_xlabel("seconds")
    axes.set_title(f"{cell.branches} branches, {heading(cell)}")


def lines(summaries: Summaries, cells: list[Cell], axes: Axes) -> None:
    """Draw a fan-out's time over the count of its branches."""
    points: dict[str, dict[int, Summary]] = {}
    for cell in sorted(cells, key=lambda cell: cell.branches):
        for row in summaries.rows(cell):
            if row.first:
                points.setdefault(row.label, {})[cell.branches] = row.first
    for label, found in points.items():
        medians = [one.median for one in found.values()]
        axes.errorbar(
            list(found),
            medians,
            yerr=spread(found.values()),
            label=label,
            marker="o",
            linewidth=2.5 if "ChatKVFork" in label else 1.2,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("branches")
    axes.set_ylabel("seconds")
    axes.set_title(heading(cells[0]))
    axes.legend(fontsize="small")


def steps(summaries: Summaries, model: str, axes: Axes) -> None:
    """Draw the decode step of 1 and of 8 branches over the shared prefix, on both libraries."""
    for contestant, who, color in (("stock", "llama.cpp", OTHERS), ("kvfork", "ours", OURS)):
        for branches, style in ((8, "o-"), (1, "o--")):
            pattern = re.compile(rf"decode {branches} at (\d+)")
            points = sorted(
                (int(match[1]), summary.median * 1000)
                for (task, name), summary in summaries.found.items()
                if (task.benchmark, task.contestant, task.model) == ("steps", contestant, model)
                and (match := pattern.fullmatch(name))
            )
            if points:
                many = "branches" if branches > 1 else "branch"
                xs, ys = zip(*points, strict=True)
                axes.plot(xs, ys, style, color=color, label=f"{who}, {branches} {many}")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("shared tokens")
    axes.set_ylabel("milliseconds")
    axes.set_title(f"One decode step ({MODELS[model].label})")
    axes.legend()


def heading(cell: Cell) -> str:
    label = MODELS[cell.model].label
    return f"{cell.prefix:,} shared tokens, {cell.generate} generated each\n{label}"


def spread(found: Collection[Summary]) -> list[list[float]]:
    """Return the distances to the fastest and the slowest round."""
    return [
        [one.median - min(one.seconds) for one in found],
        [max(one.seconds) - one.median for one in found],
    ]
