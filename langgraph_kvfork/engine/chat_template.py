"""A model's chat template: messages become a prompt, and the answer's text becomes a message.

Both directions are llama-common's, through `kvf_chat_*` and `kvf_answer_*`. They belong together:
rendering finds out which form the answer has, and returns that as an opaque `answer_format`, which
the request needs for its grammar and the reader for its parser.

What a template would leave out of the prompt is refused here, or warned of once. Prompts for a
prefill are not checked, since they are only the beginning of one.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langgraph_kvfork.engine.ending import native_work
from langgraph_kvfork.errors import InvalidRequestError, PromptWarning
from langgraph_kvfork.native.abi import Native, last_error, take_string
from langgraph_kvfork.warning import is_news, warn


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """Messages after the chat template: a prompt for `Engine.generate`.

    Attributes:
        text: The prompt, to read. `Engine.tokenize` turns the whole `RenderedPrompt` into tokens:
            its text alone does not show what the template wrote and what the messages did.
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
        # reentrant: a garbage collection inside may come back here
        self._warned: dict[str, object] = {}

    def capabilities(self) -> dict[str, bool]:
        """Return the template's capabilities, by llama-common's names."""
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
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequestError(
                "messages, or what goes with them, are not possible: pass what JSON can hold, and "
                f"not nested without end. ({error})"
            ) from error
        kvf = self._native.kvf
        rendered = _take_json(self._native, kvf.kvf_chat_render(self._handle, text))
        if rendered["is_fallback"]:
            self._warn_once(_NO_TEMPLATE)
        for mark in rendered["text_marks"]:
            self._check_text_mark(mark, messages)
        # a prefix is only a beginning: the whole prompt has what it lacks, or is refused
        for left_out in rendered["left_out"] if add_generation_prompt else ():
            self._check_left_out(left_out["index"], left_out["part"], messages)
        return RenderedPrompt(
            text=rendered["prompt"],
            answer_format=rendered["format"],
            grammar=rendered["grammar"] or None,
            stop=tuple(rendered["stop"]),
            plain=tuple(rendered["plain"]),
        )

    def _check_text_mark(self, mark: str, messages: Sequence[Mapping[str, Any]]) -> None:
        for i, message in enumerate(messages):
            if mark in _text(message):
                self._warn_once(
                    f"messages[{i}] has {mark.strip()!r} in it. The chat template writes this "
                    "between messages, and to this model's vocabulary it is ordinary text: the "
                    "model cannot tell the two apart. Take it out of texts that you do not trust."
                )

    def _check_left_out(self, index: int, part: str, messages: Sequence[Mapping[str, Any]]) -> None:
        """Refuse what the template leaves out of the prompt, or warn of it once."""
        if part == "tool":
            raise InvalidRequestError(
                f"tools[{index}] is not in the prompt: the chat template leaves tools out of a "
                "conversation like this one. Give another chat_template, or none of the tools."
            )
        role = messages[index]["role"]
        if part == "reasoning_content" or (part == "name" and role in ("assistant", "tool")):
            return  # templates leave this out on purpose, or never get it
        if part == "name":
            self._warn_once(
                f"messages[{index}].name is not in the prompt: the chat template knows no names "
                f"for the role {role!r}. Say it in the message's text if the model is to know it."
            )
        elif part == "content" and messages[index].get("tool_calls"):
            self._warn_once(
                f"messages[{index}].content is not in the prompt: the chat template leaves out "
                "what an answer says beside its tool calls."
            )
        else:
            raise InvalidRequestError(
                f"messages[{index}].{part} is not in the prompt: the chat template leaves out a "
                f"message with the role {role!r} in this place. Give it a role that the template "
                "knows, most know system (first), user, assistant and tool; or add its text to "
                "another message; or pass another chat_template."
            )

    def _warn_once(self, message: str) -> None:
        # one for all messages of a kind
        if is_news(self._warned, message.partition("]")[2] or message):
            warn(message, PromptWarning)


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


_NO_TEMPLATE = (
    "The model's file has no chat template: it is a base model, or lost its template when it was "
    "converted. ChatML is used, which it may not know. Give chat_template, or another file."
)


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
    value: dict[str, Any] = json.loads(take_string(native, address))
    return value
