"""Requests to a server's own endpoints, beside those of OpenAI's API, over the same client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import openai


class ServerRefusedError(Exception):
    """A server has refused a request.

    Attributes:
        status: HTTP's number for it.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Requests:
    """Sends requests to a server, with the key and the headers of a chat model.

    Args:
        client: The chat model's client.
        root: The server's address, without `/v1`.
    """

    def __init__(self, client: openai.AsyncOpenAI, root: str) -> None:
        self._client = client
        self.root = root

    async def get(self, path: str, *, seconds: float = 10.0) -> Any:
        """Return what an endpoint answers, read as JSON.

        Raises:
            ServerRefusedError: The server refuses it.
            openai.APIConnectionError: Nobody answers.
        """
        return await self._send("get", path, None, seconds)

    async def post(
        self,
        path: str,
        body: dict[str, Any],
        *,
        seconds: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """As `get`; `seconds` is None for what may take any time: a prefill."""
        return await self._send("post", path, body, seconds, headers)

    async def text(self, path: str) -> str:
        """Return an endpoint's text; "" if it has no such endpoint."""
        try:
            return await self._client.get(
                self.root + path,
                cast_to=str,
                options={"timeout": 10.0, "max_retries": 0},
            )
        except openai.APIStatusError:
            return ""

    async def _send(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        seconds: float | None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        options: Any = {"timeout": seconds, "max_retries": 0, "headers": headers or {}}
        try:
            if method == "get":
                return await self._client.get(
                    self.root + path, cast_to=cast("Any", object), options=options
                )
            return await self._client.post(
                self.root + path, cast_to=cast("Any", object), body=body, options=options
            )
        except openai.APIStatusError as error:
            raise ServerRefusedError(error.status_code, str(error)) from error


def body_of(payload: Mapping[str, Any], *without: str) -> dict[str, Any]:
    """Return a chat request as its body has it: what is extra is a part of it, headers are not.

    Args:
        payload: The request, as the client takes it.
        *without: Keys to leave out.
    """
    body = {**payload, **payload.get("extra_body", {})}
    for name in ("extra_body", "extra_headers", "stream_options", *without):
        body.pop(name, None)
    return body
