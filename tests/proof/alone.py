"""The model that the engine is compared with: a branch alone, slowly, over `llama.h` only.

A branch has a context to itself: no forks, no other sequences, no store, no scheduler. Its prompt
is computed in one batch, then one token after the other. How a token is chosen is written down
here once more, with llama.cpp's samplers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from langgraph_kvfork.native.abi import native

NATIVE = native()
LLAMA = NATIVE.llama
KVF = NATIVE.kvf

FAN_OUT_ATTENTION, BATCH_INVARIANT, FAN_OUT_PRODUCTS = 1, 2, 4
"""`enum ggml_cpu_option`."""
STRICT_PAGES = 2
"""`LLAMA_PAGED_STRICT`."""


def _function(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(KVF, name)
    function.restype, function.argtypes = result, arguments
    return function


_set_cpu_options = _function(
    "llama_set_cpu_options", ctypes.c_bool, ctypes.c_void_p, ctypes.c_uint32
)
_set_paged = _function("llama_memory_set_paged", ctypes.c_bool, ctypes.c_void_p, ctypes.c_int)


@dataclass(frozen=True)
class Sampling:
    """What a request says about the choice of tokens; a temperature of 0 is greedy."""

    temperature: float = 0.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    seed: int = 1
    repeat_penalty: float = 1.0
    grammar: str = ""


@dataclass
class Told:
    """What a branch has said, and how it came to it.

    Attributes:
        prompt: Its tokens; of a fork, those that the first of its ancestors began with.
        tokens: Generated ones, those of its ancestors included.
        rows: The logits that each of them was chosen from, as the engine reports them.
        seeds: With which seed the choice goes on, from which token on.
    """

    prompt: list[int]
    sampling: Sampling
    tokens: list[int] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)
    seeds: list[tuple[int, int]] = field(default_factory=list)


class Alone:
    """A context for one sequence at a time."""

    def __init__(self, model: int, params: Any, *, batch_invariant: bool) -> None:
        params.n_seq_max = 1
        self._handle = LLAMA.llama_init_from_model(model, params)
        assert self._handle, "the model that is compared with has no context"
        self._memory = LLAMA.llama_get_memory(self._handle)
        if batch_invariant:  # else it is stock llama.cpp that computes
            options = FAN_OUT_ATTENTION | FAN_OUT_PRODUCTS | BATCH_INVARIANT
            assert _set_cpu_options(self._handle, options)
            assert _set_paged(self._memory, STRICT_PAGES)
        self._n_vocab = LLAMA.llama_vocab_n_tokens(LLAMA.llama_model_get_vocab(model))
        self._n_batch = int(params.n_ubatch)
        self._batch = LLAMA.llama_batch_init(self._n_batch, 0, 1)

    def close(self) -> None:
        LLAMA.llama_batch_free(self._batch)
        LLAMA.llama_free(self._handle)

    def logits(self, prompt: Sequence[int], tokens: Sequence[int]) -> list[np.ndarray]:
        """Return what each of `tokens` is chosen from, if they follow the prompt."""
        LLAMA.llama_memory_clear(self._memory, True)
        if not tokens:
            return []
        rows = []
        for begin in range(0, len(prompt), self._n_batch):
            last = self._decode(prompt[begin : begin + self._n_batch], begin)
        rows.append(last)
        for i, token in enumerate(tokens[:-1]):
            rows.append(self._decode([token], len(prompt) + i))
        return rows

    def _decode(self, tokens: Sequence[int], begin: int) -> np.ndarray:
        batch = self._batch
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = begin + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = i == len(tokens) - 1
        assert LLAMA.llama_decode(self._handle, batch) == 0
        logits = LLAMA.llama_get_logits_ith(self._handle, len(tokens) - 1)
        return np.ctypeslib.as_array(logits, (self._n_vocab,)).copy()


def chosen(model: int, told: Told) -> list[int]:
    """Return the tokens that are chosen from `told.rows`, one after the other."""
    chooser = _Chooser(model, told.sampling)
    seeds = dict(told.seeds)
    try:
        for token in told.prompt:
            chooser.accept(token, generated=False)
        found = []
        for i, row in enumerate(told.rows):
            if i in seeds:
                chooser.reseed(seeds[i])
            found.append(chooser.choose(row))
            chooser.accept(found[-1], generated=True)
        return found
    finally:
        chooser.close()


class _Chooser:
    def __init__(self, model: int, sampling: Sampling) -> None:
        vocab = LLAMA.llama_model_get_vocab(model)
        n_vocab = LLAMA.llama_vocab_n_tokens(vocab)
        self._chain = LLAMA.llama_sampler_chain_init(LLAMA.llama_sampler_chain_default_params())
        for sampler in (
            LLAMA.llama_sampler_init_penalties(n_vocab, 64, sampling.repeat_penalty, 0.0, 0.0),
            LLAMA.llama_sampler_init_top_k(sampling.top_k),
            LLAMA.llama_sampler_init_top_p(sampling.top_p, 0),
            LLAMA.llama_sampler_init_min_p(sampling.min_p, 0),
            LLAMA.llama_sampler_init_temp_ext(sampling.temperature, 0.0, 1.0),
            LLAMA.llama_sampler_init_dist(sampling.seed),
        ):
            LLAMA.llama_sampler_chain_add(self._chain, sampler)
        self._grammar = (
            LLAMA.llama_sampler_init_grammar(vocab, sampling.grammar.encode(), b"root")
            if sampling.grammar
            else None
        )

    def close(self) -> None:
        LLAMA.llama_sampler_free(self._chain)
        if self._grammar:
            LLAMA.llama_sampler_free(self._grammar)

    def reseed(self, seed: int) -> None:
        """Let another seed decide from here on."""
        last = LLAMA.llama_sampler_chain_n(self._chain) - 1
        LLAMA.llama_sampler_free(LLAMA.llama_sampler_chain_remove(self._chain, last))
        LLAMA.llama_sampler_chain_add(self._chain, LLAMA.llama_sampler_init_dist(seed))

    def accept(self, token: int, *, generated: bool) -> None:
        if self._grammar and generated:
            LLAMA.llama_sampler_accept(self._grammar, token)
        LLAMA.llama_sampler_accept(self._chain, token)

    def choose(self, row: np.ndarray) -> int:
        """Draw a token; if the grammar forbids it, draw once more among those that it allows."""
        token = self._draw(row, with_grammar=False)
        if self._grammar is None:
            return token
        one = (LLAMA.llama_token_data * 1)(LLAMA.llama_token_data(token, 1.0, 0.0))
        LLAMA.llama_sampler_apply(self._grammar, ctypes.byref(_array(one)))
        return token if np.isfinite(one[0].logit) else self._draw(row, with_grammar=True)

    def _draw(self, row: np.ndarray, *, with_grammar: bool) -> int:
        data = (LLAMA.llama_token_data * len(row))(
            *(LLAMA.llama_token_data(i, float(x), 0.0) for i, x in enumerate(row))
        )
        array = _array(data)
        if with_grammar:
            LLAMA.llama_sampler_apply(self._grammar, ctypes.byref(array))
        LLAMA.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)


def _array(data: Any) -> Any:
    return LLAMA.llama_token_data_array(
        ctypes.cast(data, ctypes.POINTER(LLAMA.llama_token_data)), len(data), -1, False
    )
