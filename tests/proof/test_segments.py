"""The store's files are found by all that comes before them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from alone import LLAMA
from held_engine import Ended, HeldEngine, Said
from kinds import KINDS, WRITER, Kind, load, write_models

from langgraph_kvfork.branches.request import Request

N = 256
"""Tokens in a file."""
KIND = KINDS[0]


def answer(engine: HeldEngine, prompt: list[int], max_tokens: int) -> tuple[int, list[np.ndarray]]:
    """Return how much of a prompt came from the store, and the logits of what follows."""
    request = Request(max_tokens=max_tokens, temperature=0, logprobs=128, ignore_eos=True)
    engine.submit(prompt, request, 0)
    rows = []
    while True:
        engine.step()
        for event in engine.events():
            if isinstance(event, Said):
                rows.append(event.row)
            if isinstance(event, Ended):
                return event.usage.n_restored, rows


def test_two_beginnings_with_the_same_end_are_two(tmp_path: Path) -> None:
    if not WRITER.is_file():
        pytest.fail(f"{WRITER} is not there: `make native-tests` builds it")
    write_models(tmp_path)
    model = load(tmp_path, KIND)
    folder = tmp_path / "store"
    folder.mkdir(0o700)
    prompts = [[first] * N + [9] * N + [5] for first in (1, 2)]

    def opened(kind: Kind, store: str) -> HeldEngine:
        return HeldEngine(model, kind.params(2048, 8), batch_invariant=True, store=store)

    alone = opened(KIND, "")
    right = [answer(alone, prompt, 2)[1] for prompt in prompts]
    alone.close()
    for prompt in prompts:  # one process after the other
        writes = opened(KIND, str(folder))
        answer(writes, prompt[:-1], 0)
        writes.save()
        writes.close()
    reads = opened(KIND, str(folder))
    for prompt, expected in zip(prompts, right, strict=True):
        n_restored, rows = answer(reads, prompt, 2)
        assert n_restored == 2 * N
        assert all(np.array_equal(a, b) for a, b in zip(rows, expected, strict=True))
    reads.close()
    LLAMA.llama_model_free(model)
