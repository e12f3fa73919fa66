"""What can go wrong, as exceptions.

Every one is a `KVForkError`; those that LangChain has a class for derive from that class too, so
code that handles errors of any chat model handles ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_core.exceptions import OutputParserException

if TYPE_CHECKING:
    from langchain_core.exceptions import ContextOverflowError as _ContextOverflow
    from langchain_core.exceptions import ModelAPIError as _Failure
    from langchain_core.exceptions import ModelInvalidRequestError as _InvalidRequest
    from langchain_core.exceptions import ModelNotFoundError as _NotFound
    from langchain_core.exceptions import ModelTimeoutError as _Timeout
else:
    from langchain_core import exceptions as _langchain

    # older releases of langchain-core have only some of them
    def _base(name: str) -> type:
        return getattr(_langchain, name, None) or type(name, (), {})

    _Failure = _base("ModelAPIError")
    _ContextOverflow = _base("ContextOverflowError")
    _InvalidRequest = _base("ModelInvalidRequestError")
    _NotFound = _base("ModelNotFoundError")
    _Timeout = _base("ModelTimeoutError")


class KVForkError(Exception):
    """The base of every error that this package raises on purpose."""


class NativeLibraryError(KVForkError, ImportError):
    """The native library is missing, cannot be loaded, or does not fit the Python part."""


class ModelLoadError(KVForkError, _NotFound):
    """A model file is missing, is no GGUF file, is damaged, or cannot be run as asked."""

    is_retryable = False


class InvalidRequestError(KVForkError, _InvalidRequest, ValueError):
    """An argument is wrong. The message names it, its value and the remedy."""

    is_retryable = False


class ContextOverflowError(KVForkError, _ContextOverflow):
    """A prompt can never fit into the engine's context, however empty that is."""

    is_retryable = False


class GenerationError(KVForkError, _Failure):
    """The model or its back end failed while it was computing."""

    is_retryable = True


class GenerationTimeoutError(KVForkError, _Timeout, TimeoutError):
    """A branch was not done when its `timeout` was over. It has been cancelled."""

    is_retryable = True


class StructuredOutputError(KVForkError, OutputParserException):
    """An answer that was to match a schema was cut off. `llm_output` has what there is of it."""


class BranchCancelledError(KVForkError):
    """A branch was cancelled by somebody else than the one who waits for it."""


class BranchEndedError(KVForkError):
    """A branch that was to be forked had already ended."""


class EngineClosedError(KVForkError):
    """The engine was closed: before this call, or while it waited."""


class ProcessForkedError(KVForkError, RuntimeError):
    """The operating system forked this process off one that had loaded a model: see the message."""
