"""Forks on a dummy model of every architecture that llama.cpp knows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).parent
WRITER = Path(
    os.environ.get(
        "KVFORK_TEST_LLAMA_ARCHS", HERE.parents[1] / "build" / "native" / "bin" / "test-llama-archs"
    )
)
ENVIRONMENT = {**os.environ, "GGML_NO_BACKTRACE": "1"}
SEED = "1"
"""Of the random weights: how far sums in another order are apart depends on them."""
AT_ONCE = 8
"""Models that a process checks, unless it dies before."""

N_MODELS = 128
PLAIN_SUM = {"grok-moe"}
"""Cannot use flash attention: where others' cells lie shows in the last bits."""

Outcomes = Mapping[str, Mapping[str, str]]


def run(paths: list[Path]) -> Iterator[tuple[str, dict[str, str]]]:
    """Check the models in processes of their own, a new one whenever one has died."""
    while paths:
        process = subprocess.run(
            [sys.executable, str(HERE / "checks.py"), *map(str, paths)],
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
        )
        lines = [json.loads(x) for x in process.stdout.splitlines() if x.startswith("{")]
        done = {line["arch"]: line["results"] for line in lines if "arch" in line}
        begun = [line["begin"] for line in lines if "begin" in line]
        yield from done.items()
        if process.returncode == 0:
            return
        last_words = (process.stderr.strip().splitlines() or [""])[-1]
        if not begun or begun[-1] in done:
            raise RuntimeError(f"checks.py: exit code {process.returncode}\n{process.stderr}")
        yield begun[-1], {"kind": f"died: {process.returncode}, {last_words}"}
        paths = [path for path in paths if path.stem not in begun]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Return what each check found, by architecture."""
    if not WRITER.is_file():
        pytest.fail(f"{WRITER} is not there: `make native-tests` builds it")
    folder = tmp_path_factory.mktemp("archs")
    subprocess.run([WRITER, "-s", SEED, "-o", folder], check=True, capture_output=True)
    paths = sorted(folder.glob("*.gguf"))
    chunks = [paths[i : i + AT_ONCE] for i in range(0, len(paths), AT_ONCE)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(item for items in pool.map(lambda c: list(run(c)), chunks) for item in items)
    for path in paths:
        path.unlink()
    return found


def having(outcomes: Outcomes, check: str, *values: str) -> set[str]:
    return {arch for arch, results in outcomes.items() if results.get(check) in values}


def wrong(outcomes: Outcomes, check: str, *right: str) -> dict[str, str]:
    return {
        arch: results.get(check, results["kind"])
        for arch, results in outcomes.items()
        if results.get(check) not in right
    }


def test_all_models_are_checked_to_the_end(outcomes: Outcomes) -> None:
    kinds = Counter(results["kind"] for results in outcomes.values())
    assert kinds == {"attention": 104, "hybrid": 18, "recurrent": 2, "no memory": 4}
    assert sum(kinds.values()) == N_MODELS


@pytest.mark.parametrize("check", ["whole", "whole, streams"])
def test_a_fork_of_a_whole_sequence_is_exact(outcomes: Outcomes, check: str) -> None:
    no_memory = having(outcomes, "kind", "no memory")
    assert not wrong(outcomes, check, "exact", "placed", "none")
    assert having(outcomes, check, "none") == no_memory
    assert having(outcomes, check, "placed") <= PLAIN_SUM
    assert len(having(outcomes, check, "exact", "placed")) == 124


@pytest.mark.parametrize(
    "check",
    [
        "between batches",
        "within a batch",
        "first token",
        "between batches, streams",
        "within a batch, streams",
    ],
)
def test_a_fork_further_back_is_exact_or_refused(outcomes: Outcomes, check: str) -> None:
    assert not wrong(outcomes, check, "exact", "placed", "refused", "none")
    assert having(outcomes, check, "refused") == having(outcomes, "kind", "hybrid", "recurrent")
    assert having(outcomes, check, "placed") <= PLAIN_SUM
    assert len(having(outcomes, check, "exact", "placed")) == 104


@pytest.mark.parametrize(("check", "n"), [("tree", 103), ("tree, streams", 124)])
def test_what_is_left_of_a_tree_of_forks_is_as_if_alone(
    outcomes: Outcomes, check: str, n: int
) -> None:
    assert not wrong(outcomes, check, "exact", "close", "none")
    assert having(outcomes, check, "close") <= PLAIN_SUM
    assert len(having(outcomes, check, "exact", "close")) == n


@pytest.mark.parametrize("check", ["at once", "at once, streams"])
def test_a_fork_outlives_its_source_before_anything_is_decoded(
    outcomes: Outcomes, check: str
) -> None:
    assert not wrong(outcomes, check, "exact", "close", "none")
    assert all(outcomes[arch]["n_swa"] != "0" for arch in having(outcomes, check, "close"))
    assert len(having(outcomes, check, "exact", "close")) == 124


def test_cells_that_came_free_are_used_again(outcomes: Outcomes) -> None:
    assert not wrong(outcomes, "tree, holes", "exact", "close", "none")
    assert len(having(outcomes, "tree, holes", "exact", "close")) == 124


@pytest.mark.parametrize("check", ["rollback", "rollback, streams"])
def test_a_state_with_a_rollback_pending_is_not_forked(outcomes: Outcomes, check: str) -> None:
    assert not wrong(outcomes, check, "exact", "none")
    assert len(having(outcomes, check, "exact")) == 11


@pytest.mark.parametrize("check", ["bad input", "bad input, streams"])
def test_bad_input_is_refused_and_harms_nothing(outcomes: Outcomes, check: str) -> None:
    assert not wrong(outcomes, check, "exact", "ok")
    assert having(outcomes, check, "ok") == having(outcomes, "kind", "no memory")


def test_cells_are_counted(outcomes: Outcomes) -> None:
    assert not wrong(outcomes, "cells", "ok", "copied", "none")
    # it has a stream for each sequence always
    assert having(outcomes, "cells", "copied") == {"deepseek4-moe"}
    assert not wrong(outcomes, "cells, streams", "ok", "copied", "none")
    # a state is shared until one of its sequences goes on
    assert having(outcomes, "cells, streams", "ok") == having(outcomes, "kind", "recurrent")


def test_a_tokens_bytes_are_right_or_unknown(outcomes: Outcomes) -> None:
    assert not wrong(outcomes, "cell bytes", "ok", "none")
    assert len(having(outcomes, "cell bytes", "ok")) == 77


def test_a_window_that_moved_on_is_forked_within_it_only(outcomes: Outcomes) -> None:
    assert not wrong(outcomes, "window", "exact", "refused", "none")
    assert len(having(outcomes, "window", "exact")) == 17
    assert having(outcomes, "window", "refused") <= having(outcomes, "kind", "hybrid")


def test_forks_leave_room_in_the_window(outcomes: Outcomes) -> None:
    assert not wrong(outcomes, "window, room", "exact", "close", "none")
    assert len(having(outcomes, "window, room", "exact", "close")) == 21
