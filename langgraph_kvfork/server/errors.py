"""What a server's refusals and failures become: LangChain's classes, with what to change.

Each is what `langchain-openai` raises for it too, so handlers of either keep working, and a
`KVForkError`. Errors that would come again have a builtin base that LangGraph does not retry.
"""

from __future__ import annotations

import contextlib
import email.utils
import re
import time
from collections.abc import Iterator
from typing import Any

import openai
from langchain_core.exceptions import ModelTimeoutError
from langchain_openai.chat_models.base import (
    OpenAIAPIError,
    OpenAIAuthenticationError,
    OpenAIConnectionError,
    OpenAIContextOverflowError,
    OpenAIInvalidRequestError,
    OpenAIModelNotFoundError,
    OpenAIPermissionDeniedError,
    OpenAIRateLimitError,
)

from langgraph_kvfork import errors
from langgraph_kvfork.chat.errors import ContextOverflowError
from langgraph_kvfork.errors import KVForkError


class ServerConnectionError(KVForkError, OpenAIConnectionError):
    """Nobody answers at the address, or the connection broke off."""

    is_retryable = True


class ServerTimeoutError(errors.GenerationTimeoutError, openai.APITimeoutError, ModelTimeoutError):
    """The server was not done when `timeout` was over."""

    is_retryable = True


class ServerFailedError(errors.GenerationError, OpenAIAPIError):
    """The server has failed (HTTP 5xx)."""

    is_retryable = True


class ServerBusyError(KVForkError, OpenAIRateLimitError):
    """The server, or a router before it, takes no more requests for now (HTTP 429).

    Attributes:
        retry_after: After how many seconds it wants to be asked again; None: it did not say.
    """

    is_retryable = True
    retry_after: float | None = None


class ServerKeyError(KVForkError, OpenAIAuthenticationError, ValueError):
    """The key is refused (HTTP 401)."""

    is_retryable = False


class ServerPermissionError(KVForkError, OpenAIPermissionDeniedError, ValueError):
    """The key does not allow it (HTTP 403)."""

    is_retryable = False


class ServerModelError(KVForkError, OpenAIModelNotFoundError, ValueError):
    """The server has no such model, or no such endpoint (HTTP 404)."""

    is_retryable = False


class ServerRequestError(OpenAIInvalidRequestError, errors.InvalidRequestError):
    """The server refuses the request (HTTP 400)."""

    is_retryable = False


class ServerOverflowError(OpenAIContextOverflowError, errors.ContextOverflowError):
    """The prompt, or prompt and answer, do not fit into the server's context."""

    is_retryable = False


_OVERFLOW = re.compile(
    r"exceeds the available context size|Context size has been exceeded"  # llama-server
    r"|maximum context length|longer than the maximum model length"  # vLLM, SGLang
    r"|longer than the model's context length|context_length_exceeded",
    re.IGNORECASE,
)
"""How servers say that a prompt is too long."""


@contextlib.contextmanager
def in_our_words(root: str) -> Iterator[None]:
    """Raise the block's errors of a server as those of this module.

    Args:
        root: The server's address.
    """
    try:
        yield
    except KVForkError:
        raise
    except openai.APIError as error:
        raise _of(error, root) from error
    except Exception as error:
        if not _is_broken_connection(error):
            raise
        raise broken(root, str(error)) from error


def broken(root: str, why: str) -> ServerConnectionError:
    """Return the error of an answer that broke off."""
    message = (
        f"The answer of the server at {root} broke off in the middle ({why}): see its log, and "
        "call again; what has come is not the whole answer."
    )
    return ServerConnectionError(message=message, request=_NO_REQUEST)


def late(root: str) -> ServerTimeoutError:
    """Return the error of a call whose `timeout` is over."""
    error = ServerTimeoutError(_NO_REQUEST)
    error.message = (
        f"The server at {root} was not done in time: raise timeout, or ask for less at a time "
        "(max_concurrency, max_tokens)."
    )
    error.args = (error.message,)
    return error


_NO_REQUEST: Any = None


def _of(error: openai.APIError, root: str) -> Exception:
    said = error.message.rstrip(".")
    if _OVERFLOW.search(said):
        message = (
            f"The server at {root} has no room for it: {said}. Shorten the prompt, lower "
            "max_tokens, or start the server with a larger context (llama-server: --ctx-size, for "
            "all of its slots together; vLLM: --max-model-len; SGLang: --context-length)."
        )
        if isinstance(error, openai.APIStatusError):
            return ServerOverflowError(message, response=error.response, body=error.body)
        return ContextOverflowError(message)
    if isinstance(error, openai.APITimeoutError):
        return late(root)
    if isinstance(error, openai.APIConnectionError):
        cause = _first_cause(error)
        if type(cause).__name__ not in ("ConnectError", "ConnectTimeout"):
            return broken(root, str(cause) or said)
        message = f"No server answers at {root} ({cause}): start it, or correct base_url."
        return ServerConnectionError(message=message, request=error.request)
    if isinstance(error, openai.APIStatusError):
        return _of_status(error, root, said)
    message = f"The server at {root} broke off its answer: {said}."
    return ServerConnectionError(message=message, request=error.request)


def _of_status(error: openai.APIStatusError, root: str, said: str) -> Exception:
    given: dict[str, Any] = {"response": error.response, "body": error.body}
    status = error.status_code
    if status == 401:
        return ServerKeyError(
            f"The server at {root} refuses the key: {said}. Pass api_key=... (OPENAI_API_KEY is "
            "not read, so that it does not go to another server).",
            **given,
        )
    if status == 403:
        return ServerPermissionError(
            f"The server at {root} does not allow it: {said}. Pass an api_key that does.", **given
        )
    if status == 404:
        return ServerModelError(
            f"The server at {root} does not have it: {said}. Correct model (GET {root}/v1/models "
            "lists them; left out, it is the first) or base_url.",
            **given,
        )
    if status == 429:
        after = _seconds(error.response.headers.get("retry-after"))
        when = "later" if after is None else f"after {after:g} seconds"
        busy = ServerBusyError(
            f"The server at {root} takes no more requests: {said}. Call again {when}, or run fewer "
            "branches at a time (max_concurrency).",
            **given,
        )
        busy.retry_after = after
        return busy
    if status >= 500:
        return ServerFailedError(
            f"The server at {root} has failed (HTTP {status}): {said}. See its log.", **given
        )
    return ServerRequestError(f"The server at {root} refuses the request: {said}.", **given)


def _first_cause(error: BaseException) -> BaseException:
    while (cause := error.__cause__) is not None:
        error = cause
    return error


def _seconds(text: str | None) -> float | None:
    """Return the seconds of a `Retry-After` header, which has a number of them or a date."""
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        return max(float(text), 0.0)
    try:
        date = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(date.timestamp() - time.time(), 0.0)


def _is_broken_connection(error: Exception) -> bool:
    """Return whether the client below openai's raised it, of which there are two generations."""
    return any(
        base.__module__.partition(".")[0].startswith("httpx") and base.__name__ == "TransportError"
        for base in type(error).__mro__
    )
