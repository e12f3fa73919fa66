"""An engine's counters."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemoryPart:
    """One part of an engine's memory: a token takes a cell in each.

    Attributes:
        cells_total: KV cells.
        cells_used: KV cells in use; of a window, those that it has left, and that nothing has taken
            yet, among them.
        pages_total: Stretches of 64 cells.
        pages_empty: Stretches of 64 cells of which none is used.
        window: Tokens that a sequence goes on to read, for the layers of a sliding window; 0: all.
    """

    cells_total: int
    cells_used: int
    pages_total: int
    pages_empty: int
    window: int


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What an engine has done since it was created, and what it holds now.

    Attributes:
        prefilled_tokens: Tokens computed for prompts (and for texts that had been preempted).
        forked_tokens: Tokens that branches got from a fork instead.
        restored_tokens: Tokens that branches got from the store.
        generated_tokens: Tokens generated.
        stored_bytes: Bytes written to the store.
        forks: Sequences that began as a fork.
        preemptions: Times that a branch had to give up its cells.
        preempted_tokens: Cells that branches gave up in these.
        recomputed_tokens: How many of `prefilled_tokens` had been computed before, and given up.
        evictions: Snapshots dropped to make room.
        evictions_to_start: How many of these made room for a branch to start; the others, for the
            next tokens of running branches.
        steps: Batches computed.
        pages_read: Stretches of 64 cells that attention has read for these, each once a batch, over
            all parts of the memory.
        branches_started: Branches that got a sequence.
        wait_ms: How long all of these together had waited for it, in milliseconds.
        wait_ms_max: The longest of these waits, in milliseconds.
        gap_ms_max: The longest time between two tokens of a branch, in milliseconds.
        cells_total: KV cells; each holds one token.
        cells_used: KV cells in use.
        cells_used_max: The most in use at a time, since the engine was created or cleared.
        cells_wanted_max: If branches had to give up their cells: an `n_ctx` with which none had, as
            far as they have come; else 0.
        branches_running: Branches that have a sequence.
        branches_waiting: Branches that wait for one.
        snapshots: Prefixes that are there for later forks.
        snapshots_kept: How many of these belong to a run that is not over; they are dropped last.
        parts: The parts of the memory. The first one keeps all tokens: its cells are `cells_total`
            and `cells_used`. A recurrent model has none.
    """

    prefilled_tokens: int
    forked_tokens: int
    restored_tokens: int
    generated_tokens: int
    stored_bytes: int
    forks: int
    preemptions: int
    preempted_tokens: int
    recomputed_tokens: int
    evictions: int
    evictions_to_start: int
    steps: int
    pages_read: int
    branches_started: int
    wait_ms: float
    wait_ms_max: float
    gap_ms_max: float
    cells_total: int
    cells_used: int
    cells_used_max: int
    cells_wanted_max: int
    branches_running: int
    branches_waiting: int
    snapshots: int
    snapshots_kept: int
    parts: tuple[MemoryPart, ...]
