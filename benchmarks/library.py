"""llama.cpp's C functions over either library: the stock one, or ours with its switches on."""

from __future__ import annotations

import ctypes
import struct
import time
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.job import Job
from langgraph_kvfork.native import library

LLAMA_PAGED_PREFER = 1  # llama-pages.h
FAN_OUT = 1 | 4  # ggml-cpu-options.h: attention, products


class ThreadPoolParams(ctypes.Structure):
    """`struct ggml_threadpool_params`."""

    _fields_ = (
        ("cpumask", ctypes.c_bool * 512),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )


class Library:
    """The bindings of `llama.h`, and how to fork and drop a sequence."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ours = name != "stock"
        self.c: ModuleType
        if self.ours:
            self.c = library.llama_cpp()
            lib = library.library()
            memory, integer = ctypes.c_void_p, ctypes.c_int32
            self._fork = _declare(
                lib.llama_memory_seq_fork, [memory, *[integer] * 3], ctypes.c_bool
            )
            self._own_page = _declare(
                lib.llama_memory_seq_own_page, [memory, integer], ctypes.c_bool
            )
            self._drop = _declare(lib.llama_memory_seq_drop, [memory, integer])
            self._n_cells_used = _declare(lib.llama_memory_n_cells_used, [memory], ctypes.c_uint32)
            self._new_pool = _declare(
                lib.ggml_threadpool_new, [ctypes.POINTER(ThreadPoolParams)], memory
            )
            self._free_pool = _declare(lib.ggml_threadpool_free, [memory])
            self._attach_pool = _declare(lib.llama_attach_threadpool, [memory] * 3)
            self._set_paged = _declare(lib.llama_memory_set_paged, [memory, integer], ctypes.c_bool)
            self._set_options = _declare(
                lib.llama_set_cpu_options, [memory, ctypes.c_uint32], ctypes.c_bool
            )
            _declare(lib.ggml_cpu_set_plain_weights, [ctypes.c_bool])(True)
        else:
            import llama_cpp  # LLAMA_CPP_LIB_PATH says where it is

            self.c = llama_cpp.llama_cpp
        # kept: the library calls it to the end
        self._log = self.c.llama_log_callback(lambda *_: None)
        self.c.llama_log_set(self._log, None)
        self.c.llama_backend_init()

    def load(self, path: str) -> Any:
        model = self.c.llama_model_load_from_file(
            path.encode(), self.c.llama_model_default_params()
        )
        if not model:
            raise RuntimeError("the model does not load")
        return model

    def pool(self, context: Any, threads: int) -> Any:
        """Give a context threads of its own; the stock library has OpenMP's: None."""
        if not self.ours:
            return None
        pool = self._new_pool(ThreadPoolParams(n_threads=threads))
        self._attach_pool(context, pool, pool)
        return pool

    def free_pool(self, pool: Any) -> None:
        if pool:
            self._free_pool(pool)

    def memory(self, context: Any) -> Any:
        """Return a context's memory; ours places what it is given by pages, as an engine does."""
        memory = self.c.llama_get_memory(context)
        if self.ours and not self._set_paged(memory, LLAMA_PAGED_PREFER):
            raise RuntimeError("llama_memory_set_paged failed")
        if self.ours and not self._set_options(context, FAN_OUT):
            raise RuntimeError("llama_set_cpu_options failed")
        return memory

    def fork(self, memory: Any, source: int, target: int) -> None:
        """Make `target` a sequence that shares all of `source`, ready to go on."""
        if self.ours:
            if not self._fork(memory, source, target, -1) or not self._own_page(memory, target):
                raise RuntimeError("llama_memory_seq_fork or _own_page failed")
        else:
            self.c.llama_memory_seq_cp(memory, source, target, -1, -1)

    def n_cells_used(self, memory: Any, n_seq: int) -> int:
        """Count the cells in use; the stock library does not say: those of sequences in streams."""
        if self.ours:
            return int(self._n_cells_used(memory))
        return sum(self.c.llama_memory_seq_pos_max(memory, seq) + 1 for seq in range(n_seq))

    def cut(self, memory: Any, seq: int, n_tokens: int) -> None:
        """Make a sequence its first `n_tokens` tokens."""
        if not self.c.llama_memory_seq_rm(memory, seq, n_tokens, -1):
            raise RuntimeError("llama_memory_seq_rm failed")

    def drop(self, memory: Any, seq: int) -> None:
        if self.ours:
            self._drop(memory, seq)
        else:
            self.c.llama_memory_seq_rm(memory, seq, -1, -1)


def _declare(function: Any, arguments: list[Any], result: Any = None) -> Any:
    function.argtypes, function.restype = arguments, result
    return function


class Context:
    """A context whose sequence 0 can be filled with a prefix without computing it.

    Its sequences share one cache, or have a stream of it each if `n_streams` says for how many.
    """

    N_BATCH = 2048

    def __init__(
        self, library: Library, model: Any, job: Job, n_ctx: int, n_streams: int = 0
    ) -> None:
        self.library, self.model, self.n_streams = library, model, n_streams
        c = library.c
        params = c.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch, params.n_ubatch = self.N_BATCH, 512
        params.n_seq_max = n_streams or 64
        params.kv_unified = not n_streams
        params.flash_attn_type = c.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.n_threads = params.n_threads_batch = job.threads
        self.handle = c.llama_init_from_model(model, params)
        if not self.handle:
            raise RuntimeError("no context")
        self._pool = library.pool(self.handle, job.threads)
        self.memory = library.memory(self.handle)
        self._batch = c.llama_batch_init(self.N_BATCH, 0, 1)

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        self.library.c.llama_batch_free(self._batch)
        self.library.c.llama_free(self.handle)
        self.library.free_pool(self._pool)

    def decode(self, rows: Sequence[tuple[int, int]], *, logits: bool = True) -> float:
        """Compute a batch of (position, sequence) with some token each; return its seconds."""
        c, batch = self.library.c, self._batch
        batch.n_tokens = len(rows)
        for i, (position, seq) in enumerate(rows):
            batch.token[i] = 1000 + (position * 7 + seq * 13) % 20000
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = seq
            batch.logits[i] = logits
        start = time.perf_counter()
        if c.llama_decode(self.handle, batch) != 0:
            raise RuntimeError("llama_decode failed")
        c.llama_synchronize(self.handle)
        return time.perf_counter() - start

    def fill(self, n_tokens: int) -> None:
        """Give sequence 0 the state of `n_tokens` tokens: random numbers, as f16.

        The time of a decode step depends on where keys and values lie, not on what they are. This
        writes what `llama_state_seq_get_data` would (`llama_kv_cache::state_write`).
        """
        c = self.library.c
        n_layer = c.llama_model_n_layer(self.model)
        head = c.llama_model_n_embd(self.model) // c.llama_model_n_head(self.model)
        row = c.llama_model_n_head_kv(self.model) * head
        values = np.random.default_rng(0).standard_normal((n_tokens, row)).astype(np.float16)
        layer = struct.pack("=iQ", c.GGML_TYPE_F16, row * 2) + values.tobytes()
        cells = np.zeros((n_tokens, 3), np.int32)  # position, count of sequence ids, id
        cells[:, 0], cells[:, 1] = np.arange(n_tokens), 1
        state = b"".join(
            [
                struct.pack("=Ii", 0xAF143CD8, 0),  # magic, sequence
                struct.pack("=II", self.n_streams or 1, n_tokens),  # streams, cells of the first
                cells.tobytes(),
                struct.pack("=II", 0, n_layer),  # V is not transposed
                *[layer] * (2 * n_layer),  # all layers' K, then their V
                bytes(4 * max(self.n_streams - 1, 0)),  # no cells of the other streams
            ]
        )
        array = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        read = c.llama_state_seq_set_data(self.handle, array, len(state), 0)
        if read != len(state) or c.llama_memory_seq_pos_max(self.memory, 0) != n_tokens - 1:
            raise RuntimeError("llama_state_seq_set_data does not take the state: has it changed?")
