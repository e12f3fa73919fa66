"""What can go wrong, as exceptions. Every one is a `KVForkError`.

Nothing here needs LangChain. A chat model raises subclasses that are LangChain's exceptions too:
`langgraph_kvfork.chat.errors`.

LangGraph's default `RetryPolicy` goes by builtin base classes: it does not retry `ValueError`,
`OSError`, `RuntimeError` and `ImportError`. An error that would come again has such a base; one
that may not come again has none. Therefore `GenerationTimeoutError` is no builtin `TimeoutError`,
which is an `OSError`. LangChain's middleware goes by `is_retryable` instead, which says the same.
"""

from __future__ import annotations


class KVForkError(Exception):
    """The base of every error that this package raises on purpose."""


class NativeLibraryError(KVForkError, ImportError):
    """The native library is missing, cannot be loaded, or does not fit the Python part."""

    is_retryable = False


class MissingPackageError(KVForkError, ImportError):
    """A package that this needs, and that is not installed with it, is missing."""

    is_retryable = False


class ModelLoadError(KVForkError, OSError):
    """A model file is missing, is no GGUF file, is damaged, or cannot be run as asked."""

    is_retryable = False


class InvalidRequestError(KVForkError, ValueError):
    """An argument is wrong. The message names it, its value and the remedy."""

    is_retryable = False


class ContextOverflowError(KVForkError, ValueError):
    """A prompt can never fit into the engine's context, however empty that is."""

    is_retryable = False


class GenerationError(KVForkError):
    """The model or its back end failed while it was computing."""

    is_retryable = True


class GenerationTimeoutError(KVForkError):
    """A branch was not done when its `timeout` was over. It has been cancelled."""

    is_retryable = True


class BranchCancelledError(KVForkError, RuntimeError):
    """A branch was cancelled by somebody else than the one who waits for it, or nobody waits."""

    is_retryable = False


class BranchEndedError(KVForkError, RuntimeError):
    """A branch that was to be forked had already ended."""

    is_retryable = False


class EngineClosedError(KVForkError):
    """The engine was closed: before this call, or while it waited. The next call gets another."""

    is_retryable = True


class ProcessForkedError(KVForkError, RuntimeError):
    """The operating system forked this process off one that had loaded a model: see the message."""

    is_retryable = False


class EqualAnswersWarning(UserWarning):
    """Several answers to one prompt are asked for, but nothing lets them differ."""


class PromptWarning(UserWarning):
    """A prompt lacks something that does no harm, or comes from no template of the model's own.

    It lacks a person's name, or words beside a tool call, that the chat template leaves out.
    """


class StoreWarning(UserWarning):
    """A store (`cache_dir`) cannot be read or written, or had a damaged file.

    It costs sharing, never an answer: what cannot be read is computed. Each kind of trouble is
    reported once.
    """


class ServerWarning(UserWarning):
    """A server does not report something, or cannot share as it was started; it ends no call."""


class SchemaWarning(UserWarning):
    """A schema says something that does not hold while an answer is generated.

    The answer is checked all the same: if it does not match, that is a `StructuredOutputError`.
    """
