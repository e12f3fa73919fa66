"""Random histories, other ones each time, on each kind of memory.

`KVFORK_FUZZ_SEED` repeats those of a run, which prints its seed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz import machine_of, run
from kinds import KINDS, WRITER, Kind, write_models

SEED = int(os.environ.get("KVFORK_FUZZ_SEED") or random.SystemRandom().getrandbits(32))
N_HISTORIES, N_RULES = 12, 40
QUICK = [kind for kind in KINDS if kind.cost < 20]
"""The others are left to the long runs."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if not WRITER.is_file():
        pytest.fail(f"{WRITER} is not there: `make native-tests` builds it")
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    yield folder
    for path in folder.glob("*.gguf"):
        path.unlink()


@pytest.mark.parametrize("kind", QUICK, ids=[kind.name for kind in QUICK])
def test_a_fork_is_a_fork_whatever_happens(
    kind: Kind, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():
        print(f"\nKVFORK_FUZZ_SEED={SEED}", end=" ")
    with machine_of(models, kind) as machine:
        run(machine, SEED, max(3, N_HISTORIES // kind.cost), N_RULES)
