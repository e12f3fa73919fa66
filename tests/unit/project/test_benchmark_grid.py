"""What the benchmarks measure, in which order, and what becomes of an interrupted run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results, runner
from benchmarks.contestants import CONTESTANTS
from benchmarks.grid import GRIDS, LIBRARIES, Grid, Task
from benchmarks.job import Job
from benchmarks.models import MODELS
from benchmarks.process import measure

SMALL = Grid(
    models=("SmolLM2",),
    branches=(1, 2),
    prefixes=(64,),
    generate=(8,),
    prefills=(64,),
    first_token=(64,),
    left_out=tuple(name for name in CONTESTANTS if name not in ("kvfork", "article")),
    rounds=2,
    enough=10,
    limit=100,
)


def tasks(grid: Grid) -> list[Task]:
    return [task for group in grid.groups() for task in group]


def test_the_quick_grid_is_one_fan_out_of_everybody_on_each_model() -> None:
    every = [task for task in tasks(GRIDS["quick"]) if task.benchmark == "fan-out"]
    fan_outs = [task for task in every if task.generate == 64]
    labels = {CONTESTANTS[task.contestant].label for task in fan_outs}
    assert labels == {contestant.label for contestant in CONTESTANTS.values()}
    cells = {dataclasses.replace(task, contestant="", model="") for task in fan_outs}
    assert len(cells) == 1
    models = ("Qwen-0.5B-Q4_K_M", "SmolLM2")
    assert [len([t for t in fan_outs if t.model == model]) for model in models] == [9, 9]
    # and one of llama-server alone, with short answers
    servers = [task.contestant for task in every if task.generate == 16]
    assert servers == ["llama-server-split", "llama-server-shared-split"]
    assert {task.benchmark for task in tasks(GRIDS["quick"]) if task.model == models[0]} == {
        *("fan-out", "peak", "steps", "prefill")
    }
    parts = {task.benchmark for task in tasks(GRIDS["quick"]) if task.model == models[1]}
    assert parts == {
        *("fan-out", "peak", "steps", "prefill", "memory", "first_token"),
        *("steady", "busy", "beside", "mixed", "store"),
    }


def test_the_full_grid_is_everything() -> None:
    every = tasks(GRIDS["full"])
    assert len(every) == len(set(every))
    for model in MODELS:
        of_model = [task for task in every if task.model == model]
        fan_outs = [task for task in of_model if task.benchmark == "fan-out"]
        cells = {(task.branches, task.prefix, task.generate) for task in fan_outs}
        assert len(cells) == 6 * 3 * 2
        assert len(fan_outs) == len(cells) * len(CONTESTANTS)
        steps = [task.contestant for task in of_model if task.benchmark == "steps"]
        assert steps == ["+".join(LIBRARIES)]  # in turn
        for benchmark in ("memory", "prefill", "first_token"):
            libraries = {task.contestant for task in of_model if task.benchmark == benchmark}
            assert libraries == set(LIBRARIES)


def test_a_group_holds_what_is_compared() -> None:
    for grid in GRIDS.values():
        for group in grid.groups():
            assert len({dataclasses.replace(task, contestant="") for task in group}) == 1


def test_a_task_comes_back_from_a_measurement() -> None:
    task = Task("fan-out", "kvfork", "SmolLM2", 8, 2048, 64)
    assert Task.of({**dataclasses.asdict(task), "wall": 1.0, "found": []}) == task


def test_tasks_are_selected_by_their_fields() -> None:
    task = Task("fan-out", "kvfork", "SmolLM2", 8, 2048, 64)
    assert task.selected({})
    assert task.selected({"branches": ["4", "8"], "contestant": ["kvfork"]})
    assert not task.selected({"branches": ["8"], "contestant": ["article"]})


def test_more_of_the_same_task_is_at_least_as_much() -> None:
    task = Task("fan-out", "kvfork", "SmolLM2", 8, 2048, 64)
    assert dataclasses.replace(task, branches=16).at_least(task)
    assert not dataclasses.replace(task, branches=16, prefix=512).at_least(task)
    assert not dataclasses.replace(task, contestant="article").at_least(task)


#
# the runner, with a measurement that only notes down what it is asked for
#


class Rounds(list[Task]):
    """Answers in place of `runner.one_round`."""

    wall = 1.0
    over: tuple[Task, ...] = ()
    stop_after = 1000

    def __call__(self, task: Task, threads: int, limit: float) -> dict[str, Any]:
        if len(self) == self.stop_after:
            raise KeyboardInterrupt
        self.append(task)
        over = task in self.over
        error = "more than 100 s" if over else ""
        return {**dataclasses.asdict(task), "wall": self.wall, "over": over, "error": error}


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Rounds:
    rounds = Rounds()
    monkeypatch.setattr(runner, "one_round", rounds)
    monkeypatch.setattr(runner, "UNFINISHED", tmp_path)
    monkeypatch.setitem(GRIDS, "small", SMALL)
    return rounds


def test_what_is_compared_is_measured_in_turn(rounds: Rounds) -> None:
    found = runner.run("small", {})
    contestants = [task.contestant for task in rounds if task.benchmark == "fan-out"]
    assert contestants == ["kvfork", "article"] * SMALL.rounds * len(SMALL.branches)
    assert [Task.of(one) for one in found["measurements"]] == rounds
    assert len(rounds) == SMALL.rounds * len(tasks(SMALL))


def test_what_takes_long_gets_fewer_rounds(rounds: Rounds) -> None:
    rounds.wall = SMALL.enough + 1
    runner.run("small", {})
    assert rounds == tasks(SMALL)


def test_what_is_even_more_than_too_much_is_left_out(rounds: Rounds) -> None:
    first = next(task for task in tasks(SMALL) if task.contestant == "article")
    rounds.over, rounds.wall = (first,), SMALL.limit
    runner.run("small", {})
    assert dataclasses.replace(first, branches=2) not in rounds
    assert dataclasses.replace(first, contestant="kvfork", branches=2) in rounds


def test_an_interrupted_run_goes_on(rounds: Rounds) -> None:
    rounds.stop_after = 3
    with pytest.raises(KeyboardInterrupt):
        runner.run("small", {})
    rounds.stop_after = 1000
    found = runner.run("small", {})
    assert len(found["measurements"]) == SMALL.rounds * len(tasks(SMALL))
    assert [Task.of(one) for one in found["measurements"]] == rounds


def test_a_part_of_a_grid_is_kept_for_the_whole(rounds: Rounds) -> None:
    runner.run("small", {"contestant": ["article"]})
    assert {task.contestant for task in rounds} == {"article"}
    found = runner.run("small", {})
    assert len(found["measurements"]) == len(rounds) == SMALL.rounds * len(tasks(SMALL))
    # and then the grid is done: the next run begins anew
    runner.run("small", {})
    assert len(rounds) == 2 * len(found["measurements"])


def test_nothing_is_kept_for_another_commit(
    rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner.run("small", {"contestant": ["article"]})
    monkeypatch.setattr(results, "_commit", lambda: "another")
    found = runner.run("small", {})
    assert len(found["measurements"]) == SMALL.rounds * len(tasks(SMALL))
    assert len(rounds) > len(found["measurements"])


#
# the measuring process
#

NO_MODEL = Job("kvfork", "/no/such/model.gguf", threads=1)


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    outcome = measure("measures.prefill", NO_MODEL, stock=False, limit=60, log=tmp_path / "log")
    assert "the model does not load" in outcome.error
    assert not outcome.over
    assert not outcome.found


def test_a_process_is_ended_in_time(tmp_path: Path) -> None:
    outcome = measure("measures.prefill", NO_MODEL, stock=False, limit=0.01, log=tmp_path / "log")
    assert (outcome.over, outcome.error) == (True, "more than 0 s")
