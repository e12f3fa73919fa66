"""An engine's counters."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What an engine has done since it was created, and what it holds now.

    Attributes:
        prefill_tokens: Tokens computed for prompts (and for texts that had been preempted).
        forked_tokens: Tokens that branches got from a fork instead.
        decode_tokens: Tokens generated.
        forks: Sequences that began as a fork.
        preemptions: Times that a branch had to give up its cells.
        evictions: Snapshots dropped to make room.
        steps: Batches computed.
        pages_read: Stretches of 64 cells that attention has read for these, each once a batch, over
            all parts of the memory.
        cells_total: KV cells; each holds one token.
        cells_used: KV cells in use.
        cells_used_max: The most in use at a time, since the engine was created or cleared.
        branches_running: Branches that have a sequence.
        branches_waiting: Branches that wait for one.
        snapshots: Prefixes that are there for later forks.
        snapshots_kept: How many of these a run needs that is not over; they go last.
    """

    prefill_tokens: int
    forked_tokens: int
    decode_tokens: int
    forks: int
    preemptions: int
    evictions: int
    steps: int
    pages_read: int
    cells_total: int
    cells_used: int
    cells_used_max: int
    branches_running: int
    branches_waiting: int
    snapshots: int
    snapshots_kept: int
