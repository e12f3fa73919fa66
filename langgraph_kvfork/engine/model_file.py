"""Loading a model file, and saying in words why it cannot be loaded."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from langgraph_kvfork.engine.params import EngineParams, model_params
from langgraph_kvfork.errors import ModelLoadError
from langgraph_kvfork.native.abi import LogLevel, Native

# llama.cpp's log callback is one for the process, so those who listen to it take turns
_log_lock = threading.Lock()
_backend_ready = False
_errors: list[str] = []
_verbose = False


def load_model(native: Native, params: EngineParams, *, vocab_only: bool = False) -> int:
    """Load a model and return its address, to be freed with `llama_model_free`.

    Args:
        native: The native library.
        params: The file and how to load it.
        vocab_only: Load the metadata and the vocabulary, and no weights.

    Raises:
        ModelLoadError: The file is missing, is not a GGUF file, or llama.cpp cannot load it.
    """
    global _backend_ready
    check_file("model_path", params.model_path)
    native_params = model_params(params, native.llama)
    native_params.vocab_only = vocab_only
    with llama_log(native, verbose=params.verbose) as errors:
        if not _backend_ready:
            native.llama.llama_backend_init()
            _backend_ready = True
        model = native.llama.llama_model_load_from_file(params.model_path.encode(), native_params)
    if not model:
        raise ModelLoadError(
            f"llama.cpp cannot load model_path={params.model_path!r}: {in_words(errors)} If it is "
            "damaged or incomplete, download it again; if its architecture is unknown, it needs a "
            "newer llama.cpp."
        )
    return int(model)


def load_lora(native: Native, params: EngineParams, model: int) -> int | None:
    """Load the model's LoRA adapter, if there is one; it is freed with the model.

    Raises:
        ModelLoadError: The file is missing, is not a GGUF file, or does not fit the model.
    """
    if params.lora_path is None:
        return None
    check_file("lora_path", params.lora_path)
    with llama_log(native, verbose=params.verbose) as errors:
        lora = native.llama.llama_adapter_lora_init(model, params.lora_path.encode())
    if not lora:
        raise ModelLoadError(
            f"llama.cpp cannot load lora_path={params.lora_path!r}: {in_words(errors)} Give an "
            f"adapter that was trained for {params.model_path}, converted with llama.cpp's "
            "convert_lora_to_gguf.py."
        )
    return ctypes.cast(lora, ctypes.c_void_p).value


def check_file(name: str, path: str) -> None:
    """Refuse what is not a GGUF file.

    Args:
        name: The argument, for the message.
        path: Its value.

    Raises:
        ModelLoadError: It is not.
    """
    where = f"{name}={path!r}"
    if not Path(path).exists():
        raise ModelLoadError(f"{where} does not exist: give the path of a GGUF file.")
    if not Path(path).is_file():
        raise ModelLoadError(f"{where} is not a file: give the path of a GGUF file.")
    try:
        with Path(path).open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelLoadError(f"{where} cannot be read: {error}.") from error
    if magic != b"GGUF":
        raise ModelLoadError(
            f"{where} is not a GGUF file (it begins with {magic!r}): give one, or convert the "
            "model with llama.cpp's convert_hf_to_gguf.py."
        )


@contextmanager
def llama_log(native: Native, *, verbose: bool) -> Iterator[list[str]]:
    """Collect the errors that llama.cpp logs during the block, in a list that it fills.

    Args:
        native: The native library.
        verbose: Send all of llama.cpp's messages to stderr, from now on.
    """
    global _verbose
    with _log_lock:
        _errors.clear()
        _verbose = verbose
        errors: list[str] = []
        native.llama.llama_log_set(_log_callback(native), None)
        try:
            yield errors
        finally:
            native.kvf.kvf_set_log_level(LogLevel.DEBUG if verbose else LogLevel.ERROR)
            errors += _errors


def in_words(errors: Sequence[str]) -> str:
    """Return llama.cpp's errors as sentences, each once."""
    lines = dict.fromkeys(line.removesuffix(".") for line in errors if line)
    return " ".join(f"{line}." for line in lines)


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
