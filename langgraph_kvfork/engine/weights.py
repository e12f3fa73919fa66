"""A model's weights in memory, which all engines of one file share."""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable
from typing import Any

from langgraph_kvfork.engine.model_file import fitting_params, llama_log, load_lora, load_model
from langgraph_kvfork.engine.params import (
    EngineParams,
    context_key,
    context_params,
    weights_key,
)
from langgraph_kvfork.machine.free_memory import free_memory, spare
from langgraph_kvfork.native.abi import Native


class Weights:
    """A `llama_model`, and its adapter if it has one. `take` returns one, `release` gives it back.

    Attributes:
        model: Address of the model.
        lora: Address of the adapter, which is freed with the model; None: there is none.
        n_gpu_layers: How many layers are on GPUs; -1: all.
    """

    def __init__(self, native: Native, key: Hashable) -> None:
        self.model = 0
        self.lora: int | None = None
        self.n_gpu_layers = 0
        self._native = native
        self._key = key
        self._n_users = 0
        self._loading = threading.RLock()
        self._fitting: dict[Hashable, int] = {}  # n_ctx by what else is asked of a context

    @classmethod
    def take(cls, native: Native, params: EngineParams) -> Weights:
        """Return the weights that `params` name; load them, or wait for whoever does, first.

        Raises:
            ModelLoadError: The model or its adapter cannot be loaded.
            InvalidRequestError: llama.cpp refuses the parameters.
        """
        key = weights_key(params, native.llama)
        with _lock:
            weights = _loaded.setdefault(key, cls(native, key))
            weights._n_users += 1
        try:
            with weights._loading:
                if not weights.model:
                    weights._load(params)
        except BaseException:
            weights.release()
            raise
        return weights

    def release(self) -> None:
        """Give the weights back; the last user's call frees them."""
        with _lock:
            self._n_users -= 1
            if self._n_users:
                return
            del _loaded[self._key]
        if self.model:
            self._native.llama.llama_model_free(self.model)

    def context_params(self, params: EngineParams) -> Any:
        """Return `struct llama_context_params` for these weights.

        If `params` leave `n_ctx` open, it is what fits into the memory that is free when a context
        like this is first asked for, and stays so while the weights are loaded: other words for the
        same parameters make no second engine.

        Raises:
            InvalidRequestError: As `params.context_params`.
        """
        llama, kvf = self._native.llama, self._native.kvf
        whole = context_params(params, llama, self.model)
        if params.n_ctx is not None or not whole.n_ctx:
            return whole
        key = context_key(params, whole, llama, self.model)
        with self._loading:
            if key not in self._fitting:
                free = free_memory()
                with llama_log(self._native, verbose=params.verbose):
                    n_ctx = kvf.kvf_fitting_n_ctx(self.model, whole, free - spare(free))
                # if not even a small context can be made, making this one will say why
                self._fitting[key] = n_ctx or whole.n_ctx
            return context_params(params, llama, self.model, self._fitting[key])

    def _load(self, params: EngineParams) -> None:
        native_params = fitting_params(self._native, params)
        model = load_model(self._native, params, native_params)
        self.n_gpu_layers = native_params.n_gpu_layers
        try:
            self.lora = load_lora(self._native, params, model)
        except BaseException:
            self._native.llama.llama_model_free(model)
            raise
        self.model = model


# reentrant: a garbage collection inside may come back here
_lock = threading.RLock()
_loaded: dict[Hashable, Weights] = {}


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()
    _loaded.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
