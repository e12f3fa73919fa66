"""Loading a model file, and saying in words why it cannot be loaded."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from langgraph_kvfork.engine.params import EngineParams, context_params, model_params
from langgraph_kvfork.errors import ModelLoadError
from langgraph_kvfork.native.abi import LogLevel, Native

_backend_lock = threading.RLock()
_backend_ready = False


def load_model(
    native: Native,
    params: EngineParams,
    native_params: Any | None = None,
    *,
    vocab_only: bool = False,
) -> int:
    """Load a model and return its address, to be freed with `llama_model_free`.

    Args:
        native: The native library.
        params: The file and how to load it.
        native_params: `struct llama_model_params`; None: as `params` have it.
        vocab_only: Load the metadata and the vocabulary, and no weights.

    Raises:
        ModelLoadError: The file is missing, is not a GGUF file, or llama.cpp cannot load it.
    """
    check_file("model_path", str(params.model_path), params.model_files)
    llama = native.llama
    if native_params is None:
        native_params = model_params(params, llama, native.kvf)
    native_params.vocab_only = vocab_only
    files = [os.fsencode(file) for file in params.model_files]
    with llama_log(native, verbose=params.verbose) as errors:
        _init_backend(native)
        if len(files) == 1:
            model = llama.llama_model_load_from_file(files[0], native_params)
        else:
            paths = (ctypes.c_char_p * len(files))(*files)
            model = llama.llama_model_load_from_splits(paths, len(files), native_params)
    if not model:
        raise ModelLoadError(
            f"llama.cpp cannot load model_path={params.model_path!r}: {in_words(errors)} If it is "
            "damaged or incomplete, download it again; if its architecture is unknown, it needs a "
            "newer llama.cpp."
        )
    return int(model)


def fitting_params(native: Native, params: EngineParams) -> Any:
    """Return `struct llama_model_params` with as many layers on the GPUs as fit.

    Without a GPU, or if `params` say how many layers, nothing is looked at.

    Raises:
        ModelLoadError: The file is missing, or is not a GGUF file.
        InvalidRequestError: llama.cpp refuses the parameters.
    """
    llama, kvf = native.llama, native.kvf
    native_params = model_params(params, llama, kvf)
    if params.n_gpu_layers is not None:
        return native_params
    check_file("model_path", str(params.model_path), params.model_files)
    with _backend_lock, llama_log(native, verbose=params.verbose):
        _init_backend(native)
        if not llama.llama_supports_gpu_offload():
            native_params.n_gpu_layers = 0
            return native_params
        if params.tensor_split is not None:
            return native_params  # all layers, as it says
        kvf.llama_max_tensor_buft_overrides.restype = ctypes.c_size_t
        # an override is a pattern and a type of buffer: two pointers
        overrides = (ctypes.c_void_p * (2 * kvf.llama_max_tensor_buft_overrides()))()
        split = (ctypes.c_float * llama.LLAMA_MAX_DEVICES)()
        native_params.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p)
        native_params.tensor_split = split
        native_params.buffers = (overrides, split)  # to live as long
        kvf.kvf_fit_layers(
            os.fsencode(params.model_files[0]),
            ctypes.byref(native_params),
            context_params(params, llama, None),
        )
    return native_params


def _init_backend(native: Native) -> None:
    global _backend_ready
    with _backend_lock:
        if not _backend_ready:
            native.llama.llama_backend_init()
            # products unpack weights for all rows at once, and need no other order of them
            native.kvf.ggml_cpu_set_plain_weights(ctypes.c_bool(True))
            _backend_ready = True


def load_lora(native: Native, params: EngineParams, model: int) -> int | None:
    """Load the model's LoRA adapter, if there is one; it is freed with the model.

    Raises:
        ModelLoadError: The file is missing, is not a GGUF file, or does not fit the model.
    """
    if params.lora_file is None:
        return None
    check_file("lora_path", str(params.lora_path), (params.lora_file,))
    with llama_log(native, verbose=params.verbose) as errors:
        lora = native.llama.llama_adapter_lora_init(model, os.fsencode(params.lora_file))
    if not lora:
        raise ModelLoadError(
            f"llama.cpp cannot load lora_path={params.lora_path!r}: {in_words(errors)} Give an "
            f"adapter that was trained for {params.model_path}, converted with llama.cpp's "
            "convert_lora_to_gguf.py."
        )
    return ctypes.cast(lora, ctypes.c_void_p).value


def check_file(name: str, path: str, files: Sequence[str]) -> None:
    """Refuse what is not a GGUF file.

    Args:
        name: The argument, for the message.
        path: Its value.
        files: The files that it led to.

    Raises:
        ModelLoadError: One of them is not.
    """
    where = f"{name}={path!r}"
    for file in map(Path, files):
        if not file.exists():
            raise ModelLoadError(f"{where} does not exist: pass the path of a GGUF file.")
        if not file.is_file():
            raise ModelLoadError(f"{where} is not a file: pass the path of a GGUF file.")
        try:
            with file.open("rb") as opened:
                magic = opened.read(4)
        except OSError as error:
            raise ModelLoadError(f"{where} cannot be read: {error}.") from error
        if magic != b"GGUF":
            raise ModelLoadError(
                f"{where} is not a GGUF file (it begins with {magic!r}): pass one, or convert the "
                "model with llama.cpp's convert_hf_to_gguf.py."
            )


@contextmanager
def llama_log(native: Native, *, verbose: bool) -> Iterator[list[str]]:
    """Collect the errors that llama.cpp logs in this thread during the block, in a list.

    Args:
        native: The native library.
        verbose: Send all of llama.cpp's messages to stderr, from now on.
    """
    errors: list[str] = []
    native.kvf.kvf_set_log_level(LogLevel.DEBUG if verbose else LogLevel.ERROR)
    native.kvf.kvf_keep_errors()
    try:
        yield errors
    finally:
        kept = native.kvf.kvf_kept_errors()
        errors += (line.strip() for line in kept.decode(errors="replace").splitlines())


def in_words(errors: Sequence[str]) -> str:
    """Return llama.cpp's errors as sentences, each once."""
    lines = dict.fromkeys(line.removesuffix(".") for line in errors if line)
    return " ".join(f"{line}." for line in lines)
