"""`csrc/include/kvfork.h` for ctypes; structs and functions in its order, under its names."""

from __future__ import annotations

import ctypes
import os
from enum import IntEnum
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

from langgraph_kvfork.errors import (
    BranchEndedError,
    ContextOverflowError,
    EngineClosedError,
    GenerationError,
    InvalidRequestError,
    KVForkError,
    NativeLibraryError,
)

ABI_VERSION = 13
"""`KVF_ABI_VERSION` of the header that this file mirrors."""


class Error(IntEnum):
    """`enum kvf_error`."""

    NONE = 0
    INVALID = 1
    OVERFLOW = 2
    CLOSED = 3
    UNKNOWN = 4
    INTERNAL = 5


_ERRORS: dict[int, type[KVForkError]] = {
    Error.INVALID: InvalidRequestError,
    Error.OVERFLOW: ContextOverflowError,
    Error.CLOSED: EngineClosedError,
    Error.UNKNOWN: BranchEndedError,
    Error.INTERNAL: GenerationError,
}


class Finish(IntEnum):
    """`enum kvf_finish`."""

    NONE = 0
    STOP = 1
    LENGTH = 2
    PREFILLED = 3
    CANCELLED = 4
    ERROR = 5


class EventType(IntEnum):
    """`enum kvf_event_type`."""

    PREFILL = 0
    TOKEN = 1
    DONE = 2


class LogLevel(IntEnum):
    """`enum ggml_log_level`."""

    NONE = 0
    DEBUG = 1
    INFO = 2
    WARN = 3
    ERROR = 4


class Sampling(ctypes.Structure):
    """`struct kvf_sampling`."""

    _fields_ = (
        ("seed", ctypes.c_uint32),
        ("top_k", ctypes.c_int32),
        ("top_p", ctypes.c_float),
        ("min_p", ctypes.c_float),
        ("typical_p", ctypes.c_float),
        ("temperature", ctypes.c_float),
        ("repeat_last_n", ctypes.c_int32),
        ("repeat_penalty", ctypes.c_float),
        ("frequency_penalty", ctypes.c_float),
        ("presence_penalty", ctypes.c_float),
    )


class Logprob(ctypes.Structure):
    """`struct kvf_logprob`."""

    _fields_ = (
        ("token", ctypes.c_int32),
        ("logit", ctypes.c_float),
        ("logprob", ctypes.c_float),
    )


class Usage(ctypes.Structure):
    """`struct kvf_usage`."""

    _fields_ = (
        ("n_prompt", ctypes.c_uint32),
        ("n_forked", ctypes.c_uint32),
        ("n_restored", ctypes.c_uint32),
        ("n_prefilled", ctypes.c_uint32),
        ("n_generated", ctypes.c_uint32),
        ("n_preempted", ctypes.c_uint32),
        ("n_recomputed", ctypes.c_uint32),
        ("n_cells_wanted", ctypes.c_uint32),
        ("parent_id", ctypes.c_uint64),
        ("t_wait", ctypes.c_double),
        ("t_restore", ctypes.c_double),
        ("t_prefill", ctypes.c_double),
        ("t_decode", ctypes.c_double),
        ("t_gap", ctypes.c_double),
    )


class Event(ctypes.Structure):
    """`struct kvf_event`."""

    _fields_ = (
        ("branch_id", ctypes.c_uint64),
        ("type", ctypes.c_int32),
        ("finish", ctypes.c_int32),
        ("error", ctypes.c_int32),
        ("n_done", ctypes.c_uint32),
        # not c_char_p, which ends at the first NUL
        ("text", ctypes.POINTER(ctypes.c_char)),
        ("n_text", ctypes.c_size_t),
        ("token", ctypes.c_int32),
        ("logprobs", ctypes.POINTER(Logprob)),
        ("n_logprobs", ctypes.c_size_t),
        ("usage", Usage),
    )


class Part(ctypes.Structure):
    """`struct kvf_part`."""

    _fields_ = (
        ("cells_total", ctypes.c_uint32),
        ("cells_used", ctypes.c_uint32),
        ("pages_total", ctypes.c_uint32),
        ("pages_empty", ctypes.c_uint32),
        ("window", ctypes.c_uint32),
    )


class Stats(ctypes.Structure):
    """`struct kvf_stats`."""

    _fields_ = (
        ("prefilled_tokens", ctypes.c_uint64),
        ("forked_tokens", ctypes.c_uint64),
        ("restored_tokens", ctypes.c_uint64),
        ("generated_tokens", ctypes.c_uint64),
        ("stored_bytes", ctypes.c_uint64),
        ("forks", ctypes.c_uint64),
        ("preemptions", ctypes.c_uint64),
        ("preempted_tokens", ctypes.c_uint64),
        ("recomputed_tokens", ctypes.c_uint64),
        ("evictions", ctypes.c_uint64),
        ("evictions_to_start", ctypes.c_uint64),
        ("steps", ctypes.c_uint64),
        ("pages_read", ctypes.c_uint64),
        ("branches_started", ctypes.c_uint64),
        ("wait_ms", ctypes.c_double),
        ("wait_ms_max", ctypes.c_double),
        ("gap_ms_max", ctypes.c_double),
        ("cells_total", ctypes.c_uint32),
        ("cells_used", ctypes.c_uint32),
        ("cells_used_max", ctypes.c_uint32),
        ("cells_wanted_max", ctypes.c_uint32),
        ("branches_running", ctypes.c_uint32),
        ("branches_waiting", ctypes.c_uint32),
        ("snapshots", ctypes.c_uint32),
        ("snapshots_kept", ctypes.c_uint32),
        ("n_parts", ctypes.c_uint32),
        ("parts", Part * 4),
    )


def request_type(llama: ModuleType) -> type[ctypes.Structure]:
    """Return `struct kvf_request`, which holds a struct of `llama.h`."""

    class Request(ctypes.Structure):
        """`struct kvf_request`."""

        _fields_ = (
            ("tokens", ctypes.POINTER(ctypes.c_int32)),
            ("n_tokens", ctypes.c_size_t),
            ("n_predict", ctypes.c_int32),
            ("n_logprobs", ctypes.c_int32),
            ("share", ctypes.c_bool),
            ("keep", ctypes.c_int),
            ("ignore_eos", ctypes.c_bool),
            ("name_space", ctypes.c_char_p),
            ("run_id", ctypes.c_uint64),
            ("sampling", Sampling),
            ("stop", ctypes.POINTER(ctypes.c_char_p)),
            ("n_stop", ctypes.c_size_t),
            ("grammar", ctypes.c_char_p),
            ("format", ctypes.c_char_p),
            ("logit_bias", ctypes.POINTER(llama.llama_logit_bias)),
            ("n_logit_bias", ctypes.c_size_t),
        )

    return Request


class Native(NamedTuple):
    """The native library and what belongs to it.

    Attributes:
        kvf: The library, with the functions of `kvfork.h` declared.
        llama: The bindings of `llama.h`.
        request: `struct kvf_request`.
    """

    kvf: ctypes.CDLL
    llama: ModuleType
    request: Any


@cache
def native() -> Native:
    """Load the native library on the first call.

    Raises:
        NativeLibraryError: It is missing, cannot be loaded, or has another ABI version; or it has
            no back end like the one that `KVFORK_CPU_VARIANT` names.
    """
    from langgraph_kvfork.native import library

    try:
        kvf = library.library()
        llama = library.llama_cpp()
    except ImportError as error:
        raise NativeLibraryError(str(error)) from error
    check_abi_version(kvf)
    request = request_type(llama)
    _declare(kvf, llama, request)
    check_cpu_variant(kvf)
    return Native(kvf, llama, request)


def error_of(kind: int, message: str) -> KVForkError:
    """Return the exception for a `kvf_error` and its message."""
    return _ERRORS.get(kind, GenerationError)(message or "The engine failed and did not say why.")


def last_error(native: Native) -> KVForkError:
    """Return the exception for the call of the library that has just failed in this thread."""
    kvf = native.kvf
    return error_of(kvf.kvf_last_error_kind(), kvf.kvf_last_error().decode(errors="replace"))


def take_string(native: Native, address: int | None) -> bytes:
    """Return the bytes of a string that the library has made, and free it.

    Raises:
        KVForkError: There is none, since the call that was to make it has failed.
    """
    if not address:
        raise last_error(native)
    try:
        return ctypes.string_at(address)
    finally:
        native.kvf.kvf_string_free(address)


def check_abi_version(kvf: ctypes.CDLL) -> None:
    """Refuse a library that does not speak this file's version of the ABI.

    Raises:
        NativeLibraryError: It does not.
    """
    kvf.kvf_abi_version.argtypes = []
    kvf.kvf_abi_version.restype = ctypes.c_uint32
    found = kvf.kvf_abi_version()
    if found != ABI_VERSION:
        raise NativeLibraryError(
            f"The native library of langgraph-kvfork has ABI version {found}, its Python part "
            f"needs {ABI_VERSION}. Install the package again, so that both come from one build."
        )


def check_cpu_variant(kvf: ctypes.CDLL) -> None:
    """Refuse a library that does not run the CPU back end that is asked for.

    Raises:
        NativeLibraryError: `KVFORK_CPU_VARIANT` names one that it lacks, or this processor does.
    """
    wanted, runs = os.environ.get("KVFORK_CPU_VARIANT"), kvf.kvf_cpu_variant().decode()
    if wanted and wanted != runs:
        has = f"runs {runs!r}" if runs else "has one for this machine only"
        raise NativeLibraryError(
            f"KVFORK_CPU_VARIANT={wanted!r} is not possible: the library has no such CPU back end, "
            f"or this processor cannot run it; it {has}. Leave the variable out."
        )


def _declare(kvf: ctypes.CDLL, llama: ModuleType, request: type[ctypes.Structure]) -> None:
    engine, branch = ctypes.c_void_p, ctypes.c_uint64
    chat, answer = ctypes.c_void_p, ctypes.c_void_p
    functions: dict[str, tuple[Any, list[Any]]] = {
        "kvf_cpu_variant": (ctypes.c_char_p, []),
        "kvf_last_error": (ctypes.c_char_p, []),
        "kvf_last_error_kind": (ctypes.c_int, []),
        "kvf_set_log_level": (None, [ctypes.c_int32]),
        "kvf_keep_errors": (None, []),
        "kvf_kept_errors": (ctypes.c_char_p, []),
        "kvf_stop_loading": (None, []),
        "kvf_fit_layers": (
            ctypes.c_bool,
            [
                ctypes.c_char_p,
                ctypes.POINTER(llama.llama_model_params),
                llama.llama_context_params,
            ],
        ),
        "kvf_fitting_n_ctx": (
            ctypes.c_uint32,
            [ctypes.c_void_p, llama.llama_context_params, ctypes.c_uint64],
        ),
        "kvf_engine_create": (
            engine,
            [ctypes.c_void_p, llama.llama_context_params, ctypes.c_bool, ctypes.c_double],
        ),
        "kvf_engine_set_lora": (ctypes.c_bool, [engine, ctypes.c_void_p, ctypes.c_float]),
        "kvf_engine_open_store": (
            ctypes.c_bool,
            [engine, ctypes.c_char_p, ctypes.c_uint64, ctypes.c_char_p, ctypes.c_char_p],
        ),
        "kvf_engine_stored": (
            ctypes.c_void_p,
            [engine, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int32), ctypes.c_size_t],
        ),
        "kvf_engine_save": (ctypes.c_bool, [engine]),
        "kvf_engine_check_integrity": (ctypes.c_bool, [engine]),
        "kvf_engine_hold": (ctypes.c_bool, [engine, ctypes.c_bool]),
        "kvf_engine_step": (ctypes.c_int32, [engine]),
        "kvf_engine_store_fault": (ctypes.c_void_p, [engine]),
        "kvf_store_list": (ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_bool]),
        "kvf_store_prune": (ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_uint64]),
        "kvf_store_import": (
            ctypes.c_void_p,
            [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint64],
        ),
        "kvf_engine_close": (None, [engine]),
        "kvf_engine_free": (None, [engine]),
        "kvf_engine_clear": (ctypes.c_bool, [engine]),
        "kvf_engine_stats": (Stats, [engine]),
        "kvf_request_default": (request, []),
        "kvf_submit": (branch, [engine, ctypes.POINTER(request)]),
        "kvf_fork": (branch, [engine, branch, ctypes.c_uint32]),
        "kvf_cancel": (None, [engine, branch]),
        "kvf_end_run": (None, [engine, ctypes.c_uint64]),
        "kvf_poll": (
            ctypes.c_int32,
            [engine, ctypes.POINTER(Event), ctypes.c_size_t, ctypes.c_int32],
        ),
        "kvf_chat_create": (chat, [ctypes.c_void_p, ctypes.c_char_p]),
        "kvf_chat_free": (None, [chat]),
        # not c_char_p, which would lose the address that kvf_string_free needs
        "kvf_chat_render": (ctypes.c_void_p, [chat, ctypes.c_char_p]),
        "kvf_chat_capabilities": (ctypes.c_void_p, [chat]),
        "kvf_string_free": (None, [ctypes.c_void_p]),
        "kvf_tokenize": (
            ctypes.c_int64,
            [
                ctypes.c_void_p,
                ctypes.c_char_p,
                ctypes.c_size_t,
                ctypes.POINTER(ctypes.c_uint64),
                ctypes.c_size_t,
                ctypes.POINTER(ctypes.c_int32),
                ctypes.c_size_t,
                ctypes.c_bool,
                ctypes.c_bool,
            ],
        ),
        "kvf_answer_create": (answer, [ctypes.c_char_p]),
        "kvf_answer_free": (None, [answer]),
        "kvf_answer_push": (
            ctypes.c_void_p,
            [answer, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_bool],
        ),
    }
    for name, (result, arguments) in functions.items():
        function = getattr(kvf, name)
        function.restype = result
        function.argtypes = arguments
