"""What the checks need of a model and a context, over the library's C functions."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from langgraph_kvfork.native.library import library, llama_cpp

C = llama_cpp()
LIB = library()

_memory, _seq, _pos, _u32 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_uint32


class Part(ctypes.Structure):
    """`struct llama_memory_part`."""

    _fields_ = tuple(
        (name, _u32) for name in ("n_cells", "n_cells_used", "n_runs", "n_runs_empty", "n_window")
    )


def _function(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(LIB, name)
    function.restype, function.argtypes = result, arguments
    return function


seq_fork = _function("llama_memory_seq_fork", ctypes.c_bool, _memory, _seq, _seq, _pos)
seq_fork_pos = _function("llama_memory_seq_fork_pos", _pos, _memory, _seq, _pos)
seq_drop = _function("llama_memory_seq_drop", None, _memory, _seq)
n_cells = _function("llama_memory_n_cells", _u32, _memory)
n_cells_used = _function("llama_memory_n_cells_used", _u32, _memory)
seq_n_cells_own = _function("llama_memory_seq_n_cells_own", _u32, _memory, _seq)
n_parts = _function("llama_memory_n_parts", _u32, _memory)
get_part = _function("llama_memory_get_part", Part, _memory, _u32)
part_seq_cells = _function(
    "llama_memory_part_seq_cells", None, _memory, _u32, _seq, ctypes.POINTER(ctypes.c_uint64)
)

_log_callback = C.llama_log_callback(lambda *_: None)  # kept: the library calls it to the end


def start() -> None:
    """Call this once, before anything else."""
    C.llama_log_set(_log_callback, None)
    C.llama_backend_init()


class Model:
    """A model file, loaded."""

    def __init__(self, path: str) -> None:
        params = C.llama_model_default_params()
        params.n_gpu_layers = 0
        self.handle = C.llama_model_load_from_file(path.encode(), params)
        if not self.handle:
            raise RuntimeError("the model does not load")
        self.n_vocab: int = C.llama_vocab_n_tokens(C.llama_model_get_vocab(self.handle))
        self.n_swa: int = C.llama_model_n_swa(self.handle)
        self.is_recurrent = bool(C.llama_model_is_recurrent(self.handle))
        self.is_hybrid = bool(C.llama_model_is_hybrid(self.handle))

    def close(self) -> None:
        C.llama_model_free(self.handle)


class Context:
    """A context of a model, in one thread."""

    def __init__(
        self,
        model: Model,
        *,
        unified: bool = True,
        n_seq_max: int = 4,
        n_ctx: int = 512,
        n_batch: int = 128,
        swa_full: bool = True,
        flash_attn: bool = True,
        n_rs_seq: int = 0,
    ) -> None:
        params = C.llama_context_default_params()
        params.n_ctx = n_ctx if unified else n_ctx * n_seq_max
        params.n_batch = params.n_ubatch = n_batch
        params.n_seq_max = n_seq_max
        params.kv_unified = unified
        params.swa_full = swa_full
        params.n_rs_seq = n_rs_seq
        if not flash_attn:
            params.flash_attn_type = C.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.n_threads = params.n_threads_batch = 1
        self.handle = C.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise RuntimeError("no context")
        self.n_vocab = model.n_vocab
        self.n_seq_max = n_seq_max
        self.memory = C.llama_get_memory(self.handle)
        self._batch = C.llama_batch_init(n_batch, 0, 1)
        self.length = [0] * n_seq_max

    def close(self) -> None:
        C.llama_batch_free(self._batch)
        C.llama_free(self.handle)

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def decode(self, seq: int, tokens: Sequence[int]) -> np.ndarray:
        """Append `tokens` to a sequence in one batch; return the logits of the last."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = self.length[seq] + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = seq
            batch.logits[i] = i == len(tokens) - 1
        status = C.llama_decode(self.handle, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode: {status}")
        self.length[seq] += len(tokens)
        logits = C.llama_get_logits_ith(self.handle, len(tokens) - 1)
        return np.ctypeslib.as_array(logits, (self.n_vocab,)).copy()

    def fork(self, src: int, dst: int, n_past: int = -1) -> bool:
        done = bool(seq_fork(self.memory, src, dst, n_past))
        if src != dst and 0 <= dst < self.n_seq_max:
            n = n_past if n_past >= 0 or not done else self.length[src]
            self.length[dst] = n if done else 0
        return done

    @property
    def n_rs_seq(self) -> int:
        return int(C.llama_n_rs_seq(self.handle))

    def fork_pos(self, src: int, n_past: int = -1) -> int:
        return int(seq_fork_pos(self.memory, src, n_past))

    def drop(self, seq: int) -> None:
        seq_drop(self.memory, seq)
        if 0 <= seq < self.n_seq_max:
            self.length[seq] = 0

    def cut(self, seq: int, n: int) -> None:
        """Go back to the first n tokens in upstream's own way."""
        if not self.try_cut(seq, n):
            raise RuntimeError("llama_memory_seq_rm")

    def try_cut(self, seq: int, n: int) -> bool:
        done = bool(C.llama_memory_seq_rm(self.memory, seq, n, -1))
        self.length[seq] = n if done else self.length[seq]
        return done

    def pos_min(self, seq: int) -> int:
        return int(C.llama_memory_seq_pos_min(self.memory, seq))

    def pos_max(self, seq: int) -> int:
        return int(C.llama_memory_seq_pos_max(self.memory, seq))

    @property
    def cells(self) -> int:
        return int(n_cells(self.memory))

    @property
    def used(self) -> int:
        return int(n_cells_used(self.memory))

    @property
    def free(self) -> int:
        """How many cells no sequence goes on to read, in the part that has fewest of them."""
        parts = [self.part(i) for i in range(n_parts(self.memory))]
        if not parts:
            return self.cells - self.used
        return min(
            part.n_cells - sum(word.bit_count() for word in self.part_cells(i, part.n_cells))
            for i, part in enumerate(parts)
        )

    def part(self, i: int) -> Part:
        part: Part = get_part(self.memory, i)
        return part

    def part_cells(self, i: int, n_cells: int) -> list[int]:
        """Return the cells of a part that some sequence goes on to read, a bit each."""
        words = (ctypes.c_uint64 * ((n_cells + 63) // 64))()
        for seq in range(self.n_seq_max):
            part_seq_cells(self.memory, i, seq, words)
        return list(words)

    def own(self, seq: int) -> int:
        return int(seq_n_cells_own(self.memory, seq))
