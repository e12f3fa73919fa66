"""A model's chat template: messages become a prompt, and the answer's text becomes a message."""

from __future__ import annotations

import ctypes
import json
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langgraph_kvfork.engine.ending import native_work
from langgraph_kvfork.errors import InvalidRequestError
from langgraph_kvfork.native.abi import Native, last_error


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """Messages after the chat template: a prompt for `Engine.generate`.

    Attributes:
        text: The prompt, to read. `Engine.tokenize` turns the whole `RenderedPrompt` into tokens:
            its text alone does not tell what the template wrote and what the messages did.
        answer_format: What the answer has to look like and how to read it, for `Request` and
            `Engine.answer_reader`. Opaque: made by the native library, and for it.
        grammar: GBNF in `answer_format`, for people to read; None: none.
        stop: Strings that end the answer.
        plain: Offsets into the text's UTF-8, in order, of bytes that are part of no special token,
            since a message wrote what looks like one there.
    """

    text: str
    answer_format: str
    grammar: str | None = None
    stop: tuple[str, ...] = ()
    plain: tuple[int, ...] = ()


class ChatTemplate:
    """What llama.cpp knows of a chat template. May be used from many threads at once.

    Args:
        native: The native library.
        model: Address of the model, which is only read during this call; its vocabulary is enough.
        source: Jinja that replaces the model's own template; None: the model's own.

    Raises:
        InvalidRequestError: The template does not parse.
    """

    def __init__(self, native: Native, model: int, source: str | None) -> None:
        self._native = native
        kvf = native.kvf
        handle = kvf.kvf_chat_create(model, None if source is None else source.encode())
        if not handle:
            raise last_error(native)
        self._handle = int(handle)
        _free_with(self, kvf.kvf_chat_free, self._handle)

    def capabilities(self) -> dict[str, bool]:
        """Return what the template knows, by llama-common's names."""
        return _take_json(self._native, self._native.kvf.kvf_chat_capabilities(self._handle))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **options: Any,
    ) -> RenderedPrompt:
        """Render messages; see `Engine.render`.

        Some templates refuse a user's message right behind a tool's result. They get an empty
        answer in between.
        """
        given = list(messages)
        try:
            return self._render(given, add_generation_prompt, options)
        except InvalidRequestError as error:
            answered = _with_answered_results(given)
            if answered == given:
                raise
            try:
                return self._render(answered, add_generation_prompt, options)
            except InvalidRequestError:
                raise error from None

    def _render(
        self,
        messages: list[Mapping[str, Any]],
        add_generation_prompt: bool,
        options: Mapping[str, Any],
    ) -> RenderedPrompt:
        request = {
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            **options,
        }
        try:
            text = json.dumps(request, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half, before = error.object[error.start], error.object[: error.start][-40:]
            raise InvalidRequestError(
                f"messages, or what goes with them, have half a character, {half!a}, after "
                f"{before!r}: remove it, for instance with text.encode(errors='replace').decode()."
            ) from error
        kvf = self._native.kvf
        rendered = _take_json(self._native, kvf.kvf_chat_render(self._handle, text))
        return RenderedPrompt(
            text=rendered["prompt"],
            answer_format=rendered["format"],
            grammar=rendered["grammar"] or None,
            stop=tuple(rendered["stop"]),
            plain=tuple(rendered["plain"]),
        )


def tokenize(
    native: Native,
    model: int,
    prompt: str | RenderedPrompt,
    *,
    add_special: bool,
    parse_special: bool,
) -> list[int]:
    """Turn text into tokens; see `Engine.tokenize`."""
    text, plain = (prompt, ()) if isinstance(prompt, str) else (prompt.text, prompt.plain)
    data = text.encode(errors="replace")
    offsets = (ctypes.c_uint64 * len(plain))(*plain)
    size = len(data) // 2 + 8
    while True:
        tokens = (ctypes.c_int32 * size)()
        count = native.kvf.kvf_tokenize(
            model, data, len(data), offsets, len(plain), tokens, size, add_special, parse_special
        )
        if count < 0:
            raise last_error(native)
        if count <= size:
            return list(tokens[:count])
        size = count


class AnswerReader:
    """Reads one answer while it is generated. One thread at a time.

    Args:
        native: The native library.
        answer_format: `RenderedPrompt.answer_format` of its prompt.
    """

    def __init__(self, native: Native, answer_format: str) -> None:
        self._native = native
        with native_work:
            handle = native.kvf.kvf_answer_create(answer_format.encode())
            if not handle:
                raise last_error(native)
        self._handle = int(handle)
        _free_with(self, native.kvf.kvf_answer_free, self._handle)

    def push(self, text: str, *, last: bool = False) -> dict[str, Any]:
        """Take the next piece of text; return what it adds, as `kvf_answer_push` says."""
        data = text.encode(errors="replace")
        with native_work:
            address = self._native.kvf.kvf_answer_push(self._handle, data, len(data), last)
            return _take_json(self._native, address)


def _free_with(owner: object, free: Callable[[int], None], handle: int) -> None:
    # not at the end of the process, when a thread that is not waited for may still use it
    finalizer = weakref.finalize(owner, free, handle)
    finalizer.atexit = False  # type: ignore[misc] # mypy takes it for a slot


def _with_answered_results(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    answered: list[Mapping[str, Any]] = []
    for message in messages:
        if answered and answered[-1]["role"] == "tool" and message["role"] == "user":
            answered.append({"role": "assistant", "content": ""})
        answered.append(message)
    return answered


def _take_json(native: Native, address: int | None) -> dict[str, Any]:
    """Return the JSON object in a string of the library, and free the string."""
    if not address:
        raise last_error(native)
    try:
        value: dict[str, Any] = json.loads(ctypes.string_at(address))
        return value
    finally:
        native.kvf.kvf_string_free(address)
