"""The store of an engine, and whose weights its numbers come from."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from langgraph_kvfork.engine.params import EngineParams
from langgraph_kvfork.errors import GenerationError, StoreWarning
from langgraph_kvfork.native.abi import Native, last_error, take_string
from langgraph_kvfork.warning import warn

NO_STORE = "There is no store to save to: pass cache_dir to the model, or set KVFORK_CACHE_DIR."

_PIECE = 1 << 20
_PATIENCE_S = 1.0
"""Seconds for which loading a model waits for its store."""
_RACY_S = 2.0
"""Seconds within which a file may be changed again without its times showing it."""


class Store:
    """Opens an engine's store beside everything else, since a large file takes seconds to be read.

    It is waited for a second. Until it is open, nothing is taken from it; what was computed
    meanwhile goes there afterwards.
    Whatever goes wrong is a `StoreWarning`, and the engine goes on without.

    Args:
        native: The native library.
        handle: The engine's `kvf_engine *`; it must outlive `close`.
        params: The engine's, with a `cache_dir`.
        n_gpu_layers: Layers that are on GPUs, which round otherwise.
    """

    def __init__(
        self, native: Native, handle: int, params: EngineParams, n_gpu_layers: int
    ) -> None:
        self._native = native
        self._handle = handle
        self._params = params
        self._n_gpu_layers = n_gpu_layers
        self._refused: str | None = None
        self._told = False
        self._thread = threading.Thread(target=self._open, name="kvfork store", daemon=True)
        self._thread.start()
        # the first prompt of a process is to find what the last one left; of a file that is known,
        # opening takes milliseconds
        self._thread.join(_PATIENCE_S)

    def wait(self) -> None:
        """Wait until it is open, or cannot be."""
        self._thread.join()

    def warn(self) -> None:
        """Warn of what has gone wrong since the last call."""
        refused = None if self._told else self._refused
        self._told = self._told or refused is not None
        for text in (refused, self._fault()):
            if text:
                warn(text, StoreWarning)

    def save(self) -> None:
        """Write the engine's snapshots, and wait until it is on the disk.

        Raises:
            GenerationError: The store cannot be used, or has not taken all of it.
            EngineClosedError: The engine is closed.
        """
        self.wait()
        if self._refused is not None:
            raise GenerationError(self._refused)
        if not self._native.kvf.kvf_engine_save(self._handle):
            raise last_error(self._native)

    def stored(self, tokens: Sequence[int], namespace: str | None) -> dict[str, Any]:
        """Return how much of a prompt is there: the object of `kvf_engine_stored`.

        Raises:
            GenerationError: The store cannot be used.
        """
        self.wait()
        if self._refused is not None:
            raise GenerationError(self._refused)
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        name = None if namespace is None else namespace.encode()
        told = self._native.kvf.kvf_engine_stored(self._handle, name, array, len(tokens))
        found: dict[str, Any] = json.loads(take_string(self._native, told))
        return found

    def _fault(self) -> str | None:
        kvf = self._native.kvf
        address = kvf.kvf_engine_store_fault(self._handle)
        return take_string(self._native, address).decode(errors="replace") if address else None

    def _open(self) -> None:
        params = self._params
        assert params.cache_dir is not None
        try:
            weights = _weights(params, self._n_gpu_layers)
        except OSError as error:
            self._refused = f"The store at {params.cache_dir} is not used: {error}."
            return
        opened = self._native.kvf.kvf_engine_open_store(
            self._handle,
            os.fsencode(params.cache_dir),
            params.cache_bytes,
            weights.encode(),
            Path(params.model_path).name.encode(errors="replace"),
        )
        if not opened:
            why = last_error(self._native)
            self._refused = f"The store at {params.cache_dir} is not used: {why}."


def inventory(native: Native, function: Callable[..., int | None], *arguments: Any) -> Any:
    """Return the JSON of `kvf_store_list`, `kvf_store_prune` or `kvf_store_import`.

    Raises:
        KVForkError: There is no store, or it cannot be read.
    """
    return json.loads(take_string(native, function(*arguments)).decode(errors="replace"))


def _weights(params: EngineParams, n_gpu_layers: int) -> str:
    """Return what names the weights by what is in them, and what else decides who computes them.

    Raises:
        OSError: A file cannot be read.
    """
    assert params.cache_dir is not None
    known = Path(params.cache_dir)
    lora = params.lora_file if params.lora_scale else None
    return json.dumps(
        {
            "files": [_hash_of(Path(file), known) for file in params.model_files],
            "lora": None if lora is None else [_hash_of(Path(lora), known), params.lora_scale],
            "n_gpu_layers": n_gpu_layers,
            "split": [params.split_mode, params.main_gpu, params.tensor_split],
        }
    )


def _hash_of(path: Path, known: Path) -> str:
    """Return the SHA-256 of a file's contents.

    It is computed once and remembered by all that the system says of the file, the time of its last
    change of any kind among it, which nobody can set. A file that was changed just now is not
    remembered, since it could change again within the clock's tick.

    Args:
        path: The file.
        known: The folder of the store, where it is remembered.

    Raises:
        OSError: The file cannot be read.
    """
    before = _identity(path)
    note = known / f"file-{hashlib.sha256(json.dumps(before).encode()).hexdigest()}.json"
    with suppress(OSError, ValueError):
        remembered = json.loads(note.read_text("utf-8"))
        if isinstance(remembered, dict) and remembered.get("file") == before:
            found = remembered.get("sha256")
            if isinstance(found, str) and re.fullmatch("[0-9a-f]{64}", found):
                return found
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    result = digest.hexdigest()
    changed = max(before[3:]) / 1e9
    if _identity(path) == before and time.time() - changed > _RACY_S:
        with suppress(OSError):  # it is computed again the next time
            _remember(note, {"file": before, "sha256": result})
    return result


def _identity(path: Path) -> list[Any]:
    info = path.stat()
    place = [os.fspath(path), info.st_size, f"{info.st_dev}:{info.st_ino}"]
    return [*place, info.st_mtime_ns, info.st_ctime_ns]


def _remember(note: Path, content: dict[str, Any]) -> None:
    note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # a process that is killed here leaves a file that the next one to open the store removes
    unfinished = note.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")
    try:
        with os.fdopen(
            os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w"
        ) as file:
            json.dump(content, file)
        unfinished.replace(note)
    finally:
        unfinished.unlink(missing_ok=True)
