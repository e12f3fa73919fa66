"""Warns of a chat template that leaves out thoughts in the cache, so that what follows is lost.

An answer leaves its thoughts in the cache. If the template writes it into the next prompt without
them, the two turn apart there, and all that follows is computed again. To see that, the prompt
before the last answer is rendered once more: if an engine was given it, and the new prompt does not
go on from it, the thoughts were lost. Remedies are tried on the template before one is named.

Calls without thoughts cost nothing. A few thousand prompts are remembered, as hashes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from langgraph_kvfork.engine.engine import Engine
from langgraph_kvfork.errors import InvalidRequestError
from langgraph_kvfork.order.watch import common_prefix
from langgraph_kvfork.warning import is_news, warn

_LEAST = 1000
"""Characters computed again that are worth a warning."""

_MARKS = 100
"""Characters at most that a template puts between the beginning of an answer and its thoughts."""

_KEEPING = (
    ("preserve_thinking", True),
    ("clear_thinking", False),
    ("truncate_history_thinking", False),
    ("drop_thinking", False),
    ("preserved_thinking", True),
    ("keep_all_reasoning", True),
)
"""Variables of chat templates, with the value that makes them keep earlier thoughts: those of the
templates that llama.cpp ships (Qwen and LFM, GLM, Nemotron, DeepSeek, Hunyuan), and MiMo's."""

_MOST_PROMPTS = 4096
"""Prompts that are remembered, 8 bytes each."""

Messages = Sequence[Mapping[str, Any]]
"""Messages in OpenAI's form, as `Engine.render` takes them."""


class ThoughtsDroppedWarning(UserWarning):
    """The chat template leaves out earlier thoughts, so that what follows them is prefilled again.

    A call's answer leaves a snapshot with its thoughts. If the template writes the same answer
    without them into the next prompt, that prompt shares with the snapshot what comes before the
    answer, and no more.
    """


class RenderPrompt(Protocol):
    """Renders messages as the call does, with other variables or without thinking."""

    def __call__(
        self,
        messages: Messages,
        /,
        *,
        variables: Mapping[str, Any] | None = None,
        reasoning: bool = True,
    ) -> str:
        """Return the prompt.

        Args:
            messages: The messages.
            variables: For the template, on top of the call's.
            reasoning: Whether a model that can think does.

        Raises:
            InvalidRequestError: The template refuses them.
        """


@dataclass(frozen=True, slots=True)
class DroppedThoughts:
    """Thoughts of an earlier prompt, or of its answer, that this prompt lacks.

    Attributes:
        index: The first message that lost its thoughts.
        answer: The last answer; the prompt before it is the earlier one.
        before: The earlier prompt.
        again: What is computed again because of them.
    """

    index: int
    answer: int
    before: str
    again: str


_prompts: dict[int, None] = {}
"""Prompts that engines have computed, as hashes."""

_warned: dict[object, object] = {}
"""Models and templates that were warned of, and a mark of who did it."""


def watch_thoughts(engine: Engine, messages: Messages, prompt: str, render: RenderPrompt) -> None:
    """Warn once of each model whose chat template drops thoughts that a snapshot has.

    Args:
        engine: The engine that computes it.
        messages: The prompt, as messages.
        prompt: The prompt.
        render: What rendered it.
    """
    model = (engine.params.model_path, engine.params.chat_template)
    # each step is one operation of a dict, so that threads and garbage collections may meet here
    if model in _warned:
        return
    if len(_prompts) >= _MOST_PROMPTS:
        _prompts.clear()
    _prompts[hash((id(engine), prompt))] = None
    dropped = dropped_thoughts(messages, prompt, render)
    if dropped is None or len(dropped.again) < _LEAST:
        return
    # elsewhere, or with other options: then no snapshot has the thoughts
    if hash((id(engine), dropped.before)) not in _prompts:
        return
    if is_news(_warned, model):
        tokens = len(engine.tokenize(dropped.again, add_special=False))
        remedy = find_remedy(messages, dropped, render)
        message = _sentences(messages, dropped.index, tokens, remedy)
        warn(message, ThoughtsDroppedWarning)


def dropped_thoughts(
    messages: Messages, prompt: str, render: RenderPrompt
) -> DroppedThoughts | None:
    """Return the thoughts that the last answer's prompt, or the answer, had; None if it has all.

    Args:
        messages: The prompt, as messages.
        prompt: The prompt.
        render: What rendered it.
    """
    missing = [i for i, thoughts in _thoughts(messages).items() if thoughts not in prompt]
    if not missing:
        return None
    answer = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
    try:
        before = render(messages[:answer])
    except InvalidRequestError:
        return None  # no call can have had this prompt
    index = _first_dropped(messages, missing, answer, before, prompt)
    if index is None:
        return None
    again = _again(messages, answer, before, prompt)
    return DroppedThoughts(index, answer, before, again)


def find_remedy(messages: Messages, dropped: DroppedThoughts, render: RenderPrompt) -> str | None:
    """Return the argument of `ChatKVFork` that ends it; None if none does that is known here.

    Each one is tried: what it makes of the messages has to begin with what it makes of the earlier
    prompt.

    Args:
        messages: The prompt, as messages.
        dropped: What its template dropped.
        render: What rendered it.
    """
    answer = dropped.answer
    for name, value in _KEEPING:
        variables = {name: value}
        try:
            before = render(messages[:answer], variables=variables)
            prompt = render(messages, variables=variables)
        except InvalidRequestError:
            continue
        keeps = all(thoughts in prompt for thoughts in _thoughts(messages).values())
        if keeps and len(before) - common_prefix(before, prompt) < _MARKS:
            return f"chat_template_kwargs={variables!r}"
    plain = [{k: v for k, v in message.items() if k != "reasoning_content"} for message in messages]
    try:
        before = render(plain[:answer], reasoning=False)
        prompt = render(plain, reasoning=False)
        is_known = prompt != render(plain)
    except InvalidRequestError:
        return None
    is_better = len(_again(plain, answer, before, prompt)) < _LEAST
    return "reasoning=False" if is_known and is_better else None


def _thoughts(messages: Messages) -> dict[int, str]:
    """Return the messages that have thoughts, without the space around them that templates cut."""
    found = {i: str(m.get("reasoning_content") or "").strip() for i, m in enumerate(messages)}
    return {i: thoughts for i, thoughts in found.items() if thoughts}


def _first_dropped(
    messages: Messages, missing: Sequence[int], answer: int, before: str, prompt: str
) -> int | None:
    """Return the message at whose thoughts the prompt turns off from what was computed."""
    differ = common_prefix(before, prompt)
    thoughts = _thoughts(messages)
    for i in missing:
        # the last answer's came right after the earlier prompt
        at = len(before) if i == answer else before.find(thoughts[i])
        if at >= 0:
            # far before them, something else differs
            return i if at - differ < _MARKS else None
    return None


def _again(messages: Messages, answer: int, before: str, prompt: str) -> str:
    """Return what is in the prompt between where it turns off and what is new."""
    new = [str(message["content"]).strip() for message in messages[answer + 1 :]]
    differ = common_prefix(before, prompt)
    end = prompt.rfind(new[0], differ) if new and new[0] else -1
    if end < 0:  # the template says it otherwise
        end = len(prompt) - sum(map(len, new))
    return prompt[differ:end]


def _sentences(messages: Messages, index: int, tokens: int, remedy: str | None) -> str:
    begins = textwrap.shorten(str(messages[index]["content"])[:200], 60, placeholder=" ...")
    which = f"messages[{index}]" + (f", the answer {begins!r}" if begins else "")
    if remedy is None:
        what_to_do = "No variable that is known here makes it keep them; another chat_template can."
    elif remedy == "reasoning=False":
        what_to_do = "Where the model need not think, reasoning=False avoids it."
    else:
        what_to_do = f"{remedy} keeps them, and what follows."
    return (
        f"The chat template leaves out the thoughts of {which}, which are in the cache: about "
        f"{tokens:,} tokens behind them are prefilled again, and as many at each such turn. "
        f"{what_to_do} It may be what the model's makers want: many models are trained without "
        "earlier thoughts, and thoughts that are kept take room in the context."
    )
