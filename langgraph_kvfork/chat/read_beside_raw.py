"""What an answer was parsed to, beside the answer itself: `include_raw=True`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.utils import AddableDict


class ReadBesideRaw(Runnable[AIMessage, dict[str, Any]]):
    """Returns `{"raw": message, "parsed": object, "parsing_error": error}`, and raises nothing.

    LangChain makes it of fallbacks, which are too late for an error at the end of a stream.

    Args:
        parser: What reads the message.
    """

    def __init__(self, parser: Runnable[AIMessage, Any]) -> None:
        self._parser = parser

    def invoke(
        self, input: AIMessage, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Read a message."""
        try:
            parsed = self._parser.invoke(input, config)
        except Exception as error:  # noqa: BLE001 - it is returned
            return {"raw": input, "parsed": None, "parsing_error": error}
        return {"raw": input, "parsed": parsed, "parsing_error": None}

    async def ainvoke(
        self, input: AIMessage, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """As `invoke`."""
        try:
            parsed = await self._parser.ainvoke(input, config)
        except Exception as error:  # noqa: BLE001 - it is returned
            return {"raw": input, "parsed": None, "parsing_error": error}
        return {"raw": input, "parsed": parsed, "parsing_error": None}

    def transform(
        self, input: Iterator[AIMessage], config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[dict[str, Any]]:
        """Read a message while it grows; its chunks come as they do, then the object.

        The object comes once, and not as it grows: the items of a stream are to be added.
        """
        chunks: list[AIMessage] = []
        parsed: Any = None
        error: Exception | None = None
        try:
            for value in self._parser.transform(_kept(input, chunks), config):
                parsed = value
                yield from _taken(chunks)
        except _ModelError as failed:
            raise failed.args[0] from failed.args[0].__cause__
        except Exception as failed:  # noqa: BLE001 - it is returned
            parsed, error = None, failed
        yield from _taken(chunks)
        yield AddableDict(parsed=parsed, parsing_error=error)

    async def atransform(
        self, input: AsyncIterator[AIMessage], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[dict[str, Any]]:
        """As `transform`."""
        chunks: list[AIMessage] = []
        parsed: Any = None
        error: Exception | None = None
        try:
            async for value in self._parser.atransform(_akept(input, chunks), config):
                parsed = value
                for chunk in _taken(chunks):
                    yield chunk
        except _ModelError as failed:
            raise failed.args[0] from failed.args[0].__cause__
        except Exception as failed:  # noqa: BLE001 - it is returned
            parsed, error = None, failed
        for chunk in _taken(chunks):
            yield chunk
        yield AddableDict(parsed=parsed, parsing_error=error)


class _ModelError(Exception):
    """What the model raised, which is no error of parsing."""


def _kept(messages: Iterator[AIMessage], chunks: list[AIMessage]) -> Iterator[AIMessage]:
    try:
        for message in messages:
            chunks.append(message)
            yield message
    except Exception as error:
        raise _ModelError(error) from error


async def _akept(
    messages: AsyncIterator[AIMessage], chunks: list[AIMessage]
) -> AsyncIterator[AIMessage]:
    try:
        async for message in messages:
            chunks.append(message)
            yield message
    except Exception as error:
        raise _ModelError(error) from error


def _taken(chunks: list[AIMessage]) -> Iterator[AddableDict]:
    while chunks:
        yield AddableDict(raw=chunks.pop(0))
