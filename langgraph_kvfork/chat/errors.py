"""The engine's errors as LangChain's: code that handles errors of any chat model handles ours.

The engine raises the classes of `langgraph_kvfork.errors`, which need no LangChain. Whatever leaves
the chat model is, where LangChain has a class for it, a subclass of both: the class that the engine
raises and LangChain's. So `except ContextOverflowError` works with either import.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from langchain_core.exceptions import OutputParserException

from langgraph_kvfork import errors
from langgraph_kvfork.errors import KVForkError

if TYPE_CHECKING:
    from langchain_core.exceptions import ContextOverflowError as _ContextOverflow
    from langchain_core.exceptions import ModelAPIError as _Failure
    from langchain_core.exceptions import ModelError as _Error
    from langchain_core.exceptions import ModelInvalidRequestError as _InvalidRequest
    from langchain_core.exceptions import ModelNotFoundError as _NotFound
    from langchain_core.exceptions import ModelTimeoutError as _Timeout
else:
    from langchain_core import exceptions as _langchain

    # older releases of langchain-core have only some of them
    def _base(name: str) -> type:
        return getattr(_langchain, name, None) or type(name, (), {})

    _Error = _base("ModelError")
    _Failure = _base("ModelAPIError")
    _ContextOverflow = _base("ContextOverflowError")
    _InvalidRequest = _base("ModelInvalidRequestError")
    _NotFound = _base("ModelNotFoundError")
    _Timeout = _base("ModelTimeoutError")


class ModelLoadError(errors.ModelLoadError, _NotFound):
    """`langgraph_kvfork.errors.ModelLoadError`, as LangChain's."""


class InvalidRequestError(errors.InvalidRequestError, _InvalidRequest):
    """`langgraph_kvfork.errors.InvalidRequestError`, as LangChain's."""


class ContextOverflowError(errors.ContextOverflowError, _ContextOverflow):
    """`langgraph_kvfork.errors.ContextOverflowError`, as LangChain's."""


class GenerationError(errors.GenerationError, _Failure):
    """`langgraph_kvfork.errors.GenerationError`, as LangChain's."""


class GenerationTimeoutError(errors.GenerationTimeoutError, _Timeout):
    """`langgraph_kvfork.errors.GenerationTimeoutError`, as LangChain's."""


class NativeLibraryError(errors.NativeLibraryError, _Error):
    """`langgraph_kvfork.errors.NativeLibraryError`, as LangChain's."""


class MissingPackageError(errors.MissingPackageError, _Error):
    """`langgraph_kvfork.errors.MissingPackageError`, as LangChain's."""


class BranchCancelledError(errors.BranchCancelledError, _Error):
    """`langgraph_kvfork.errors.BranchCancelledError`, as LangChain's."""


class EngineClosedError(errors.EngineClosedError, _Error):
    """`langgraph_kvfork.errors.EngineClosedError`, as LangChain's."""


class ProcessForkedError(errors.ProcessForkedError, _Error):
    """`langgraph_kvfork.errors.ProcessForkedError`, as LangChain's."""


class StructuredOutputError(KVForkError, OutputParserException):
    """An answer does not match its schema, or was cut off. `llm_output` has its text."""


_LANGCHAINS: dict[type[KVForkError], type[KVForkError]] = {
    errors.ModelLoadError: ModelLoadError,
    errors.InvalidRequestError: InvalidRequestError,
    errors.ContextOverflowError: ContextOverflowError,
    errors.GenerationError: GenerationError,
    errors.GenerationTimeoutError: GenerationTimeoutError,
    errors.NativeLibraryError: NativeLibraryError,
    errors.MissingPackageError: MissingPackageError,
    errors.BranchCancelledError: BranchCancelledError,
    errors.EngineClosedError: EngineClosedError,
    errors.ProcessForkedError: ProcessForkedError,
}


@contextlib.contextmanager
def langchain_errors() -> Iterator[None]:
    """Raise the block's errors as LangChain's; for a `with` statement, or as a decorator.

    The exception keeps its message, its traceback and its cause.
    """
    try:
        yield
    except KVForkError as error:
        langchains = _LANGCHAINS.get(type(error))
        if langchains is None:
            raise
        # `from` its own cause, so that the traceback shows one exception and not two
        raise langchains(*error.args).with_traceback(error.__traceback__) from error.__cause__
