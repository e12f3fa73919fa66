"""An engine that takes a step when it is asked to, over the C ABI, and what its branches say."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from alone import KVF, LLAMA, NATIVE

from langgraph_kvfork.branches.request import Request
from langgraph_kvfork.branches.request_struct import native_request
from langgraph_kvfork.native.abi import Event, EventType, Stats, last_error


class Prefilled(NamedTuple):
    branch: int
    n_done: int


class Said(NamedTuple):
    branch: int
    token: int
    row: np.ndarray
    text: bytes


class Ended(NamedTuple):
    branch: int
    finish: int
    error: int
    text: str
    usage: Any


"""What happens to a branch: `kvf_event`."""


class HeldEngine:
    """An engine of a model."""

    def __init__(self, model: int, params: Any, *, batch_invariant: bool, store: str = "") -> None:
        self._n_vocab = LLAMA.llama_vocab_n_tokens(LLAMA.llama_model_get_vocab(model))
        self._handle = KVF.kvf_engine_create(model, params, batch_invariant, 0.0)
        if not self._handle:
            raise last_error(NATIVE)
        self._require(KVF.kvf_engine_hold(self._handle, True))
        if store:
            path = store.encode()
            self._require(
                KVF.kvf_engine_open_store(self._handle, path, 1 << 22, b"weights", b"name")
            )
        self._events = (Event * 64)()

    def close(self) -> None:
        KVF.kvf_engine_free(self._handle)

    def submit(self, tokens: list[int], request: Request, run_id: int) -> int:
        native = native_request(NATIVE, tokens, request, run_id)
        branch = int(KVF.kvf_submit(self._handle, ctypes.byref(native)))
        self._require(branch)
        return branch

    def fork(self, branch: int, seed: int | None) -> int:
        child = int(KVF.kvf_fork(self._handle, branch, 0xFFFFFFFF if seed is None else seed))
        self._require(child)
        return child

    def cancel(self, branch: int) -> None:
        KVF.kvf_cancel(self._handle, branch)

    def end_run(self, run_id: int) -> None:
        KVF.kvf_end_run(self._handle, run_id)

    def clear(self) -> None:
        self._require(KVF.kvf_engine_clear(self._handle))

    def save(self) -> None:
        """Write all snapshots to the store: the engine goes on by itself meanwhile."""
        self._require(KVF.kvf_engine_hold(self._handle, False))
        self._require(KVF.kvf_engine_save(self._handle))
        self._require(KVF.kvf_engine_hold(self._handle, True))
        self.check()  # it has ended the step that it was in

    def check(self) -> None:
        self._require(KVF.kvf_engine_check_integrity(self._handle))

    def stats(self) -> Stats:
        """Return the counters after all that was asked before."""
        self.check()
        stats: Stats = KVF.kvf_engine_stats(self._handle)
        return stats

    def step(self) -> bool:
        """Take a step; return False if there was nothing to do."""
        took = int(KVF.kvf_engine_step(self._handle))
        self._require(took >= 0)
        return took == 1

    def events(self) -> Iterator[Prefilled | Said | Ended]:
        """Return what has happened since the last call."""
        while n := KVF.kvf_poll(self._handle, self._events, len(self._events), 0):
            assert n > 0, "the engine is closed"
            for event in self._events[:n]:
                yield self._read(event)

    def _read(self, event: Event) -> Prefilled | Said | Ended:
        text = ctypes.string_at(event.text, event.n_text)
        if event.type == EventType.PREFILL:
            return Prefilled(event.branch_id, event.n_done)
        if event.type == EventType.TOKEN:
            row = np.full(self._n_vocab, np.nan, dtype=np.float32)
            for one in event.logprobs[1 : event.n_logprobs]:
                row[one.token] = one.logit
            return Said(event.branch_id, event.token, row, text)
        copy = type(event.usage).from_buffer_copy(event.usage)
        return Ended(event.branch_id, event.finish, event.error, text.decode(), copy)

    def _require(self, done: object) -> None:
        if not done:
            raise last_error(NATIVE)
