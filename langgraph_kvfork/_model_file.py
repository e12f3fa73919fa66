"""Loading a model file, and saying in words why it cannot be loaded."""

from __future__ import annotations

import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

from langgraph_kvfork import engine_params
from langgraph_kvfork._native import LogLevel, Native
from langgraph_kvfork.engine_params import EngineParams
from langgraph_kvfork.errors import ModelLoadError

# llama.cpp's log callback is one for the process, so loads that listen to it take turns
_load_lock = threading.Lock()
_backend_ready = False
_errors: list[str] = []
_verbose = False


def load_model(native: Native, params: EngineParams) -> int:
    """Load a model and return its address, to be freed with `llama_model_free`.

    Raises:
        ModelLoadError: The file is missing, is not a GGUF file, or llama.cpp cannot load it.
    """
    global _backend_ready, _verbose
    check_file(params.model_path)
    with _load_lock:
        if not _backend_ready:
            native.llama.llama_backend_init()
            _backend_ready = True
        _errors.clear()
        _verbose = params.verbose
        native.llama.llama_log_set(_log_callback(native), None)
        try:
            model = native.llama.llama_model_load_from_file(
                params.model_path.encode(),
                engine_params.model_params(params, native.llama),
            )
        finally:
            native.kvf.kvf_set_log_level(LogLevel.DEBUG if params.verbose else LogLevel.ERROR)
    if not model:
        raise ModelLoadError(
            f"llama.cpp cannot load model_path={params.model_path!r}: {_error_text()} If it is "
            "damaged or incomplete, download it again; if its architecture is unknown, it needs a "
            "newer llama.cpp."
        )
    return int(model)


def check_file(model_path: str) -> None:
    path = Path(model_path)
    if not path.exists():
        raise ModelLoadError(
            f"model_path={model_path!r} does not exist: give the path of a GGUF file."
        )
    if not path.is_file():
        raise ModelLoadError(
            f"model_path={model_path!r} is not a file: give the path of a GGUF file."
        )
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelLoadError(f"model_path={model_path!r} cannot be read: {error}.") from error
    if magic != b"GGUF":
        raise ModelLoadError(
            f"model_path={model_path!r} is not a GGUF file (it begins with {magic!r}): give one, "
            "or convert the model with llama.cpp's convert_hf_to_gguf.py."
        )


@cache
def _log_callback(native: Native) -> Any:
    """Return the one callback that listens; kept for good, since llama.cpp may call it any time."""

    def take(level: int, text: bytes, _: object) -> None:
        line = text.decode(errors="replace")
        if level == LogLevel.ERROR:
            _errors.append(line.strip())
        if _verbose:
            sys.stderr.write(line)

    return native.llama.llama_log_callback(take)


def _error_text() -> str:
    lines = [line for line in _errors if line]
    return " ".join(line if line.endswith(".") else f"{line}." for line in lines)
