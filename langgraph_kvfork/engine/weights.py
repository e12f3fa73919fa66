"""A model's weights in memory, which all engines of one file share."""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable

from langgraph_kvfork.engine.model_file import load_lora, load_model
from langgraph_kvfork.engine.params import EngineParams, weights_key
from langgraph_kvfork.native.abi import Native


class Weights:
    """A `llama_model`, and its adapter if it has one. `take` returns one, `release` gives it back.

    Attributes:
        model: Address of the model.
        lora: Address of the adapter, which is freed with the model; None: there is none.
    """

    def __init__(self, native: Native, key: Hashable) -> None:
        self.model = 0
        self.lora: int | None = None
        self._native = native
        self._key = key
        self._n_users = 0
        self._loading = threading.RLock()

    @classmethod
    def take(cls, native: Native, params: EngineParams) -> Weights:
        """Return the weights that `params` name; load them, or wait for whoever does, first.

        Raises:
            ModelLoadError: The model or its adapter cannot be loaded.
            InvalidRequestError: llama.cpp refuses the parameters.
        """
        key = weights_key(params)
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

    def _load(self, params: EngineParams) -> None:
        model = load_model(self._native, params)
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
