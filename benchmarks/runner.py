"""Runs a grid: one measurement at a time, and what was found is kept after each."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Collection, Mapping
from typing import Any

from benchmarks import results
from benchmarks.contestants import CONTESTANTS
from benchmarks.grid import GRIDS, Task
from benchmarks.job import ROOT, Job
from benchmarks.models import MODELS
from benchmarks.process import measure
from benchmarks.prompts import Prompts, questions
from benchmarks.results import Results

UNFINISHED = ROOT / "build" / "bench"


def run(grid_name: str, only: Mapping[str, Collection[str]]) -> Results:
    """Measure a grid, going on with what an earlier run of the same commit left unfinished.

    Args:
        grid_name: One of `GRIDS`.
        only: Values for fields of tasks: the others are left for another run.
    """
    grid = GRIDS[grid_name]
    path = UNFINISHED / f"{grid_name}.json"
    all_results = results.new(grid_name)
    if path.is_file():
        earlier = results.load(path)
        if results.go_together(earlier, all_results):
            all_results = earlier
            say(f"going on with {path}")
    measurements = all_results["measurements"]
    for group in grid.groups():
        tasks = [task for task in group if task.selected(only)]
        for number in range(grid.rounds):
            for task in tasks:
                rounds = [one for one in measurements if Task.of(one) == task]
                if len(rounds) > number or sum(one["wall"] for one in rounds) > grid.enough:
                    continue
                if reason := hopeless(task, measurements):
                    say(f"{task}: left out, {reason}")
                    continue
                say(f"{task}, round {number + 1}")
                measurements.append(one_round(task, all_results["threads"], grid.limit))
                results.save(path, all_results)
    if not only:
        path.unlink()
    return all_results


def one_round(task: Task, threads: int, limit: float) -> dict[str, Any]:
    """Measure a task once."""
    program, stock = f"measures.{task.benchmark}", "stock" in task.contestant.split("+")
    if task.benchmark == "fan-out":
        contestant = CONTESTANTS[task.contestant]
        program, stock = f"contestants.{contestant.program}", contestant.stock_library
    job = make_job(task, threads)
    outcome = measure(program, job, stock=stock, limit=limit, log=UNFINISHED / "log.txt")
    found = [
        f"{one['contestant'] or ''} {one['name']} {one['seconds']:.4g} s".lstrip()
        for one in outcome.found
    ]
    say(outcome.error or f"{', '.join(found)}; {outcome.wall:.0f} s in all")
    if outcome.others > outcome.wall / 10:
        say(f"the machine is busy: others took {outcome.others:.0f} s of CPU time meanwhile")
    return {**dataclasses.asdict(task), **dataclasses.asdict(outcome)}


def make_job(task: Task, threads: int) -> Job:
    """Return what a measuring process is given: the prompts, cut to length."""
    model_path = MODELS[task.model].path()
    if task.benchmark in ("peak", "steps", "memory", "prefill"):
        return Job(task.contestant, model_path, threads, prefix=task.prefix)
    branches = task.branches or 8
    asked, more = questions(branches), questions(branches, skip=branches)
    prompts = Prompts(model_path)
    document = prompts.document(task.prefix)
    prefix = prompts.shared(document)
    longest = max(len(prompts.tokens(document, question)) for question in asked + more)
    prompts.close()
    return Job(
        task.contestant,
        model_path,
        threads,
        document=document,
        prefix=prefix,
        questions=asked,
        more_questions=more,
        suffix=longest - prefix,
        generate=task.generate or 1,
    )


def hopeless(task: Task, measurements: list[dict[str, Any]]) -> str | None:
    """Say why a task would not end within the limit; None: it may."""
    for one in measurements:
        if one["over"] and task.at_least(Task.of(one)):
            return f"since it takes {one['error']} for {Task.of(one)}"
    return None


def say(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)
