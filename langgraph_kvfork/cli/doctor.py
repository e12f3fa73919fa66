"""`doctor` and `inspect`: what is installed, what a model file is, and what would fit."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping
from typing import Any

from langgraph_kvfork.cli.cache import listed, max_bytes, model_name, store_path
from langgraph_kvfork.engine.model_facts import ModelFacts, model_facts
from langgraph_kvfork.engine.params import EngineParams
from langgraph_kvfork.errors import KVForkError
from langgraph_kvfork.machine.free_memory import free_memory, spare
from langgraph_kvfork.machine.threads import default_threads
from langgraph_kvfork.native import abi
from langgraph_kvfork.native.library import bindings_version
from langgraph_kvfork.report.plain_text import fold, size

N_SEQ_MAX = 256
"""Most branches at a time: `LLAMA_MAX_SEQ`."""

_LABEL = 10
"""Columns of the labels on the left."""

_OWN = 512
"""Tokens that a branch of the table has of its own: its question and its answer."""

_DEVICE_TYPES = ("CPU", "GPU", "integrated GPU", "accelerator")


def doctor(model_path: str, cache_dir: str | None = None) -> dict[str, Any]:
    """Return the installed parts, the contents of a store, and how much would fit.

    Args:
        model_path: A GGUF file.
        cache_dir: A store's folder; None: that of `KVFORK_CACHE_DIR`, if it names one.

    Raises:
        NativeLibraryError: The native library cannot be used.
        ModelLoadError: The file cannot be used.
    """
    native = abi.native()
    free = free_memory()
    return {
        "version": importlib.metadata.version("langgraph-kvfork"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": default_threads(),
        "library": native.kvf._name,
        "llama_cpp_python": bindings_version(),
        "cpu_variant": native.kvf.kvf_cpu_variant().decode() or None,
        "features": _features(native.llama.llama_print_system_info().decode()),
        "devices": _devices(native.kvf),
        "free_memory_bytes": free,
        "store": _store(cache_dir),
        "model": inspect(model_path, free),
    }


def _store(cache_dir: str | None) -> dict[str, Any] | None:
    """Return the contents of a store in numbers, or its error; None: there is none."""
    if not (cache_dir or os.environ.get("KVFORK_CACHE_DIR")):
        return None
    path = store_path(cache_dir)
    try:
        found, most = listed(path, verify=False), max_bytes(None)
    except KVForkError as error:
        return {"path": path, "error": str(error)}
    shelves = found.pop("shelves")
    counts = {name: sum(shelf[name] for shelf in shelves) for name in ("files", "tokens")}
    models = sorted({model_name(shelf["about"]) for shelf in shelves})
    return {**found, **counts, "max_bytes": most, "models": models}


def inspect(model_path: str, free: int | None = None) -> dict[str, Any]:
    """Return what a model file says of itself, and what would fit.

    Args:
        model_path: A GGUF file.
        free: Bytes of free memory; None: as many as there are.

    Raises:
        NativeLibraryError: The native library cannot be used.
        ModelLoadError: The file cannot be used.
    """
    facts = model_facts(EngineParams(model_path))
    return {**vars(facts), "fits": _fits(facts, free_memory() if free is None else free)}


def _fits(facts: ModelFacts, free: int) -> dict[str, Any] | None:
    """Return how many cells fit beside the weights, and how many branches into these.

    As much is left free as an engine leaves that chooses its `n_ctx`. Neither what computing needs
    beside, nor what is on a GPU, is looked at.
    """
    if not facts.cell_bytes:
        return None
    cells = max(free - spare(free) - facts.file_bytes, 0) // facts.cell_bytes
    lengths = [n for n in (2048, 8192, 32768, 131072) if n < facts.n_ctx_train]
    if facts.n_ctx_train:
        lengths.append(facts.n_ctx_train)
    return {
        "cells": cells,
        "default_n_ctx": min(cells, facts.n_ctx_train),
        "own_tokens": _OWN,
        "branches": [
            {
                "context": n,
                "sharing": max(min((cells - (n - _OWN)) // _OWN, N_SEQ_MAX), 0),
                "alone": min(cells // n, N_SEQ_MAX),
            }
            for n in lengths
        ],
    }


def _features(system_info: str) -> list[str]:
    parts = (part.strip() for part in system_info.replace(" : ", " | ").split("|"))
    return [part.removesuffix(" = 1") for part in parts if part.endswith(" = 1")]


def _devices(lib: ctypes.CDLL) -> list[dict[str, Any]]:
    # of ggml-backend.h, which llama-cpp-python's bindings do not declare
    lib.ggml_backend_dev_count.restype = ctypes.c_size_t
    get = lib.ggml_backend_dev_get
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    for name in ("name", "description"):
        function = getattr(lib, f"ggml_backend_dev_{name}")
        function.restype, function.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    lib.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    size = ctypes.POINTER(ctypes.c_size_t)
    lib.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, size, size]
    lib.ggml_backend_dev_memory.restype = None

    devices = []
    for device in map(get, range(lib.ggml_backend_dev_count())):
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        lib.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        kind = lib.ggml_backend_dev_type(device)
        devices.append(
            {
                "name": lib.ggml_backend_dev_name(device).decode(errors="replace"),
                "description": lib.ggml_backend_dev_description(device).decode(errors="replace"),
                "type": _DEVICE_TYPES[kind] if kind < len(_DEVICE_TYPES) else "other",
                "free_bytes": free.value,
                "total_bytes": total.value,
            }
        )
    return devices


def doctor_text(found: Mapping[str, Any], width: int | None = None) -> str:
    """Return what `doctor` found, in words; `width`: the longest line."""
    free = found["free_memory_bytes"]
    lines = [
        f"langgraph-kvfork {found['version']}, Python {found['python']}, {found['platform']}",
        f"library:  {found['library']}",
        f"          llama.cpp of llama-cpp-python {found['llama_cpp_python']}; "
        f"{', '.join(found['features'])}",
        f"          CPU back end: {found['cpu_variant'] or 'for the machine that it was built on'}",
        f"threads:  {found['threads']}",
    ]
    lines += [
        f"device:   {device['name']}, {device['type']}: {device['description']}, "
        f"{size(device['free_bytes'])} of {size(device['total_bytes'])} free"
        for device in found["devices"]
    ]
    lines.append(f"memory:   {size(free)} free")
    lines.append(f"store:    {_store_text(found['store'])}")
    return fold("\n".join([*lines, "", *_model(found["model"])]), width, _LABEL)


def _store_text(store: Mapping[str, Any] | None) -> str:
    if store is None:
        return "none, unless the model is given a cache_dir: set KVFORK_CACHE_DIR, or --cache-dir"
    if "error" in store:
        return f"cannot be read: {store['error']}"
    damaged = f", {store['damaged']:,} damaged" if store["damaged"] else ""
    return (
        f"{store['path']}, {size(store['bytes'])} of {size(store['max_bytes'])}: "
        f"{store['tokens']:,} tokens in {store['files']:,} files{damaged}; "
        f"{', '.join(store['models']) or 'nothing yet'}"
    )


def inspect_text(model: Mapping[str, Any], width: int | None = None) -> str:
    """Return what a model file says of itself, in words; `width`: the longest line."""
    return fold("\n".join(_model(model)), width, _LABEL)


def _model(model: Mapping[str, Any]) -> Iterator[str]:
    yield f"model:    {model['path']}"
    name = f"{model['name']}, " if model["name"] else ""
    yield f"          {name}{size(model['file_bytes'])}, architecture {model['architecture']}"
    yield (
        f"          {model['n_layer']} layers, {model['n_vocab']:,} tokens in the vocabulary, "
        f"training context {model['n_ctx_train']:,}"
    )
    yield f"forks:    {model['memory']}"
    yield f"template: {_template(model)}"
    if model["cell_bytes"]:
        yield f"KV cache: {model['cell_bytes']:,} bytes per token in f16"
    fits = model["fits"]
    if not fits:
        yield "fits:     unknown, since the file or the system does not say enough"
        return
    yield (
        f"fits:     about {fits['cells']:,} cells (n_ctx) in the free memory "
        f"(n_ctx left out: {fits['default_n_ctx']:,}). That is at most:"
    )
    yield f"          {'context':>9}  {'branches that share it':>22}  {'not sharing':>11}"
    for row in fits["branches"]:
        yield f"          {row['context']:>9,}  {row['sharing']:>22,}  {row['alone']:>11,}"
    yield f"          ({fits['own_tokens']} tokens of a context are a branch's own)"


def _template(model: Mapping[str, Any]) -> str:
    if not model["chat_template"]:
        return "none in the file: chatml is taken, or pass chat_template"
    tools = "knows tools" if model["tools"] else "knows no tools (they come as text)"
    return f"{tools}, {'thinks' if model['thinks'] else 'does not think'}"
