"""Tables and plots say what the results say; the README's is the committed results' own."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results
from benchmarks.contestants import CONTESTANTS
from benchmarks.grid import Task
from benchmarks.plots import draw
from benchmarks.report import (
    BEGIN,
    END,
    README_GRID,
    fan_out_table,
    readme_block,
    tables,
    with_block,
)
from benchmarks.results import README
from benchmarks.summary import Cell, Summaries, Summary, time_text

RECORDED = Path(__file__).parent / "benchmark_results.json"
CELL = Cell("SmolLM2", 512, 2, 64)


@pytest.fixture
def recorded() -> dict[str, Any]:
    """Return the results of a small grid that has been measured."""
    return results.load(RECORDED)


def rows(table: str) -> dict[str, list[str]]:
    """Return a table's rows by their first column, without marks and head."""
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    return {row[0].replace("*", ""): row[1:] for row in cells[2:]}


def add(recorded: dict[str, Any], task: Task, *found: dict[str, Any]) -> None:
    """Add a round of a task to the results."""
    one = {**dataclasses.asdict(task), "error": "", "over": False, "found": list(found)}
    recorded["measurements"].append(one)


def times(seconds: dict[str, float]) -> list[dict[str, Any]]:
    """Return what a process has found, by the names of what it measured."""
    return [{"name": name, "seconds": one, "prefilled": None} for name, one in seconds.items()]


#
# the README
#


def test_the_readme_shows_what_was_measured() -> None:
    measured = results.load(results.FOLDER / f"{README_GRID}.json")
    text = README.read_text("utf-8")
    assert with_block(text, readme_block(measured)) == text
    block = text.split(BEGIN)[1].split(END)[0]
    assert measured["machine"] in " ".join(block.split())  # lines are folded
    assert block in text.split("\n## ")[0]  # on its first screen


def test_all_results_are_of_one_commit_and_whole() -> None:
    for path in results.FOLDER.glob("*.json"):
        measured = results.load(path)
        assert "dirty" not in measured["commit"], path
        for one in measured["measurements"]:
            assert one["over"] or not one["error"]
            for found in one["found"]:
                if one["benchmark"] == "fan-out":
                    assert found["generated"] == one["branches"] * one["generate"]


def test_a_text_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no block"):
        with_block(f"{END} {BEGIN}", "block")


#
# tables
#


def test_a_fan_out_has_a_row_for_each_label(recorded: dict[str, Any]) -> None:
    table = rows(fan_out_table(Summaries(recorded), CELL))
    measured = {one["contestant"] for one in recorded["measurements"]}
    labels = [one.label for name, one in CONTESTANTS.items() if name in measured]
    assert list(table) == list(dict.fromkeys(labels))
    assert next(iter(table.values()))[1] == "1.0"


def test_of_two_ways_the_faster_one_counts(recorded: dict[str, Any]) -> None:
    ways = ("llama-server", "llama-server-split")
    label = CONTESTANTS[ways[0]].label
    for slow, fast in (ways, ways[::-1]):
        changed = copy.deepcopy(recorded)
        for one in changed["measurements"]:
            if one["contestant"] in ways:
                one["found"][0]["seconds"] = 20.0 if one["contestant"] == slow else 10.0
        assert rows(fan_out_table(Summaries(changed), CELL))[label][0] == "10.0 s", fast


def test_a_failure_is_shown(recorded: dict[str, Any]) -> None:
    for one in recorded["measurements"]:
        if one["contestant"] == "article":
            one.update(found=[], error="more than 900 s")
    row = rows(fan_out_table(Summaries(recorded), CELL))[CONTESTANTS["article"].label]
    assert row[0] == "more than 900 s"
    assert not any(row[1:])


def test_a_round_that_failed_is_no_round(recorded: dict[str, Any]) -> None:
    label = CONTESTANTS["article"].label
    before = rows(fan_out_table(Summaries(recorded), CELL))[label]
    one = next(one for one in recorded["measurements"] if one["contestant"] == "article")
    recorded["measurements"].append({**one, "found": [], "error": "failed"})
    assert rows(fan_out_table(Summaries(recorded), CELL))[label] == before


def test_rounds_are_a_median_and_a_spread() -> None:
    assert str(Summary((3.0, 1.0, 2.5), 0)) == "2.50 s (1.00 to 3.00)"
    assert str(Summary((0.0025,), 0)) == "2.50 ms"


def test_times_have_three_digits() -> None:
    times = (114.8, 15.32, 8.3, 0.061, 0.00013, 0.0000055)
    texts = ["115 s", "15.3 s", "8.30 s", "61.0 ms", "130 µs", "5.50 µs"]
    assert [time_text(seconds) for seconds in times] == texts


def test_parts_are_compared_with_llama_cpp(recorded: dict[str, Any]) -> None:
    *_, title, table = tables(Summaries(recorded))
    assert title.startswith("## Part by part")
    parts = rows(table)
    step = parts["decode step, 8 branches, 2,048 shared"]
    own = parts["decode step, 8 branches, 2,048 shared and 512 of their own"]
    token = parts["first token after 3,500 tokens, forked"]
    alone = parts["first token after 3,500 tokens, own prefill"]
    assert token[0] == alone[0]  # llama.cpp has nothing to fork
    for stock, ours, ratio in (step, own, token, alone):
        assert stock
        assert ours
        assert float(ratio.replace(",", "")) > 0


def test_a_process_that_measures_both_is_a_measurement_of_each(recorded: dict[str, Any]) -> None:
    times = {"stock": (0.04, 0.03, 0.05), "kvfork": (0.02, 0.01, 0.02)}
    found = [
        {"name": "decode 8 at 64", "seconds": s, "prefilled": None, "contestant": contestant}
        for contestant, of_rounds in times.items()
        for s in of_rounds
    ]
    task = Task("steps", "stock+kvfork", "SmolLM2")
    one = {**dataclasses.asdict(task), "error": "", "over": False, "found": found}
    recorded["measurements"].append(one)
    summaries = Summaries(recorded)
    assert {task.contestant for task in summaries.tasks("steps")} == set(times)
    *_, table = tables(summaries)
    row = ["40.0 ms (30.0 to 50.0)", "20.0 ms (10.0 to 20.0)", "2.00"]
    assert rows(table)["decode step, 8 branches, 64 shared"] == row


def test_parts_are_shares_of_what_the_machine_can_do(recorded: dict[str, Any]) -> None:
    model = "Qwen-0.5B-Q4_K_M"
    least = {"a token of a prefill": 0.001, "a token of a decode step": 0.002}
    least["the weights of a decode step"] = 0.012
    add(recorded, Task("peak", "machine", model), *times(least))
    for library, slower in (("stock", 2), ("kvfork", 1)):
        prefill = {"prefill 512": 1.024 * slower}
        add(recorded, Task("prefill", library, model, prefix=512), *times(prefill))
        steps = {"decode 1 at 512": 0.02, "decode 8 at 512": 0.04 * slower}
        add(recorded, Task("steps", library, model), *times(steps))
    *_, title, table = tables(Summaries(recorded))
    assert title.startswith("## Beside what the machine can do at most")
    assert rows(table) == {
        "prefill of 512 tokens, of the peak in 8-bit products": ["25 %", "50 %"],
        "decode step, 1 branch, 512 shared, of the memory's bandwidth": ["60 %", "60 %"],
        "decode step, 8 branches, 512 shared, of the peak in 8-bit products": ["20 %", "40 %"],
    }


def test_a_fan_out_beside_a_busy_program_is_compared_with_itself(recorded: dict[str, Any]) -> None:
    for library, beside in (("kvfork", 3.0), ("stock", 60.0)):
        task = Task("busy", library, "SmolLM2", 8, 512, 64)
        add(recorded, task, *times({"alone": 1.5, "beside a busy program": beside}))
    *_, title, table = tables(Summaries(recorded))
    assert title.startswith("## Beside a busy program")
    assert rows(table) == {
        "llama-batched-bench, 8 branches, 512 shared": ["1.50 s", "60.0 s", "40.00"],
        "ChatKVFork, 8 branches, 512 shared": ["1.50 s", "3.00 s", "2.00"],
    }


def test_memory_is_cells_and_the_peak_of_the_process(recorded: dict[str, Any]) -> None:
    for contestant, cells, peak in (("stock", 224_512, 6 * 2**30), ("kvfork", 8_256, 400 * 2**20)):
        task = Task("memory", contestant, "SmolLM2")
        found = {"name": "32 branches over 7,000", "seconds": 0.3, "prefilled": None}
        found |= {"generated": 512, "cells": cells, "peak": peak}
        add(recorded, task, found)
    *_, title, table = tables(Summaries(recorded))
    assert title.startswith("## Memory")
    name = "32 branches over 7,000 tokens, "
    assert rows(table) == {
        name + "llama.cpp, a copy of the prefix for each": ["224,512", "6,144 MiB"],
        name + "ours, the prefix once and a page for each": ["8,256", "400 MiB"],
    }


def test_a_store_is_compared_with_llama_server_and_with_none(recorded: dict[str, Any]) -> None:
    seconds = {
        "stock": {"computed": 6.0, "from a file": 0.3},
        "kvfork": {
            "computed": 4.0,
            "from a file": 0.1,
            "from a file that is not in memory": 0.2,
            "five rounds, without a store": 50.0,
            "five rounds, with one": 10.0,
        },
    }
    for contestant, of_contestant in seconds.items():
        add(recorded, Task("store", contestant, "SmolLM2", 8, 7000, 1), *times(of_contestant))
    *_, beside, table, title, worth = tables(Summaries(recorded))
    assert beside.startswith("## A prompt that was computed before")
    assert rows(table) == {
        "7,000 tokens, computed": ["6.00 s", "4.00 s", "1.50"],
        "7,000 tokens, from a file": ["300 ms", "100 ms", "3.00"],
        "7,000 tokens, from a file that is not in memory": ["", "200 ms", ""],
    }
    assert title.startswith("## With a store and without")
    assert rows(worth) == {
        "an answer after 7,000 tokens": ["4.00 s", "100 ms", "40.0"],
        "five rounds": ["50.0 s", "10.0 s", "5.00"],
    }


#
# plots
#


def test_plots_are_pictures_and_always_the_same(recorded: dict[str, Any], tmp_path: Path) -> None:
    bars, steps = draw(Summaries(recorded), tmp_path, "small")
    first = [path.read_bytes() for path in (bars, steps)]
    assert all(data.startswith(b"\x89PNG") for data in first)
    assert first[0] != first[1]
    draw(Summaries(recorded), tmp_path, "small")
    assert [path.read_bytes() for path in (bars, steps)] == first


def test_several_counts_of_branches_are_lines(recorded: dict[str, Any], tmp_path: Path) -> None:
    more = json.loads(json.dumps(recorded["measurements"]))
    for one in more:
        if one["benchmark"] == "fan-out":
            one["branches"] *= 2
    recorded["measurements"] += more
    names = [path.name for path in draw(Summaries(recorded), tmp_path, "small")]
    assert names == ["small-smollm2-512-64.png", "small-smollm2-steps.png"]


def test_no_plot_without_results(tmp_path: Path) -> None:
    assert draw(Summaries(results.new("small")), tmp_path, "small") == []
    assert not re.search("png", " ".join(path.name for path in tmp_path.iterdir()))
