"""Which tools a call must choose from, in the forms that LangChain and providers have for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, Union

from langgraph_kvfork.checks import require

ToolChoice: TypeAlias = Union[str, bool, dict[str, Any], None]  # noqa: UP007

_WORDS = {"auto": "auto", "none": "none", "any": "required", "required": "required"}
"""What they are here, in whatever case: Google's are "AUTO", "ANY", "NONE"."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a tool choice says.

    Attributes:
        kind: "auto", "none" or "required".
        names: The tools to choose from; None: all.
        is_one: Whether it names one tool, rather than a list of them.
        parallel: Whether one answer may call several times; None: it does not say.
    """

    kind: str
    names: tuple[str, ...] | None = None
    is_one: bool = False
    parallel: bool | None = None


def read_choice(choice: object, known: Sequence[str]) -> Choice:
    """Return a tool choice in one form.

    It is None, True, False, a word, a tool's name; or a dict as OpenAI (Chat Completions and
    Responses, lists of allowed tools), Anthropic, Bedrock or Google has it.

    Args:
        choice: The choice.
        known: The tools' names.

    Raises:
        InvalidRequestError: It is something else, or names a tool that is not there.
    """
    found = _read(choice)
    names = None if found is None else found.names
    is_valid = found is not None and (names is None or (bool(names) and set(names) <= set(known)))
    remedy = f"pass auto, none, any or the name of a tool: {', '.join(known)}"
    require(is_valid, "tool_choice", choice, remedy)
    assert found is not None
    return found


def _read(choice: object) -> Choice | None:
    if choice is None or choice is False:
        return Choice("auto")
    if choice is True:
        return Choice("required")
    if isinstance(choice, str):
        return Choice(_WORDS[choice]) if choice in _WORDS else _one(choice)
    return _read_dict(choice) if isinstance(choice, Mapping) else None


def _read_dict(choice: Mapping[str, Any]) -> Choice | None:
    if isinstance(google := choice.get("function_calling_config"), Mapping):
        return _of_names(google.get("mode", "AUTO"), google.get("allowed_function_names"))
    kind = choice.get("type")
    if kind == "allowed_tools":
        listed = choice.get("allowed_tools", choice)
        return _of_tools(listed) if isinstance(listed, Mapping) else None
    if kind in _WORDS:
        return Choice(_WORDS[kind], parallel=_parallel(choice))
    if kind in (None, "function", "tool", "custom"):
        for part in (choice, choice.get("function"), choice.get("tool"), choice.get("custom")):
            if isinstance(part, Mapping) and isinstance(part.get("name"), str):
                return _one(part["name"], parallel=_parallel(choice))
    if kind is None and len(choice) == 1 and (word := next(iter(choice))) in _WORDS:
        return Choice(_WORDS[word])  # Bedrock's {"any": {}}
    return None


def _of_tools(listed: Mapping[str, Any]) -> Choice | None:
    tools = listed.get("tools")
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        return None
    read = [_read_dict(tool) if isinstance(tool, Mapping) else None for tool in tools]
    return _of_names(
        listed.get("mode", "auto"), [t.names[0] if t and t.names else None for t in read]
    )


def _of_names(mode: object, names: object) -> Choice | None:
    kind = _WORDS.get(mode.lower()) if isinstance(mode, str) else None
    if kind is None:
        return None
    if not names and names != []:
        return Choice(kind)
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        return None
    return Choice(kind, tuple(names))


def _parallel(choice: Mapping[str, Any]) -> bool | None:
    return False if choice.get("disable_parallel_tool_use") is True else None


def _one(name: str, *, parallel: bool | None = None) -> Choice:
    return Choice("required", (name,), is_one=True, parallel=parallel)
