"""Which branches a fan-out runs, with which prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import BaseMessage, convert_to_messages
from langchain_core.runnables import Runnable

from langgraph_kvfork._checks import is_c_text, require
from langgraph_kvfork._native import DEFAULT_SEED
from langgraph_kvfork._node import state_value, underlying_model
from langgraph_kvfork.errors import InvalidRequestError
from langgraph_kvfork.fork_branch import Branches, BranchSpec, ForkBranch, Messages, is_messages


@dataclass(frozen=True, slots=True)
class Plan:
    """A branch that is ready to run.

    Attributes:
        name: Its name.
        llm: Who answers.
        messages: The whole prompt.
        arguments: For the call, besides the node's.
    """

    name: str
    llm: Runnable[Any, Any]
    messages: list[BaseMessage]
    arguments: dict[str, Any] = field(default_factory=dict)


def check_branches(name: str, branches: object) -> Branches:
    """Refuse what is not branches.

    Args:
        name: Where they are from, for the message.
        branches: What to look at.

    Raises:
        InvalidRequestError: It names what is wrong.
    """
    if not isinstance(branches, (Mapping, Sequence)) or isinstance(branches, (str, bytes)):
        raise InvalidRequestError(
            f"{name}={branches!r} is not possible: give a dict with one entry per branch, from its "
            "name to what it asks; or a list."
        )
    for key, spec in _items(branches):
        require(is_c_text(key) and bool(key), name, {key: spec}, "name it with text")
        where = f"{name}[{key if isinstance(branches, Sequence) else repr(key)}]"
        asked = spec.messages if isinstance(spec, ForkBranch) else spec
        require(
            callable(asked) or is_messages(asked),
            where,
            spec,
            "give text, a list of messages, a function of the state that returns one of these, or, "
            "for a model of its own, ForkBranch(messages, llm)",
        )
        if not callable(asked):
            to_messages(where, asked)
    return branches


def plan_branches(
    branches: Branches, shared: list[BaseMessage], llm: Runnable[Any, Any], state: Any
) -> list[Plan]:
    """Return the branches that a fan-out runs.

    Args:
        branches: Checked ones.
        shared: What all prompts begin with.
        llm: Who answers, if the branch has nobody of its own.
        state: What functions are called with.

    Raises:
        InvalidRequestError: A function returned something else than messages.
    """
    plans = []
    for name, spec in _items(branches):
        asked = spec.messages if isinstance(spec, ForkBranch) else spec
        own = spec.llm if isinstance(spec, ForkBranch) else None
        if callable(asked):
            asked = asked(state)
            if not is_messages(asked):
                raise InvalidRequestError(
                    f"branches[{name!r}] returned {asked!r}: it must return text or messages."
                )
        ending = to_messages(f"branches[{name!r}]", asked)
        plans.append(Plan(name, llm if own is None else own, [*shared, *ending]))
    return plans


def plan_samples(
    n: int, shared: list[BaseMessage], llm: Runnable[Any, Any], arguments: Mapping[str, Any]
) -> list[Plan]:
    """Return `n` branches that answer the same prompt.

    Where a seed is given, each has another one: `seed`, `seed + 1`, …

    Args:
        n: How many.
        shared: The prompt.
        llm: Who answers.
        arguments: What every call is given.
    """
    own = sample_arguments(n, llm, arguments)
    return [Plan(str(i), llm, list(shared), own[i]) for i in range(n)]


def sample_arguments(
    n: int, llm: Runnable[Any, Any], arguments: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return what lets `n` answers to one prompt differ: where a seed is given, one for each.

    Args:
        n: How many.
        llm: Who answers.
        arguments: What every call is given.
    """
    model, bound = underlying_model(llm)
    seed = {**bound, **arguments}.get("seed", getattr(model, "seed", None))
    if isinstance(seed, int) and seed >= 0:
        return [{"seed": (seed + i) % DEFAULT_SEED} for i in range(n)]
    return [{} for _ in range(n)]


def branches_of_state(source: str | Callable[[Any], Branches], state: Any) -> Branches:
    """Return the branches that a state's key holds, or that a function of the state returns.

    Raises:
        InvalidRequestError: The state has no such key, or it is something else.
    """
    if isinstance(source, str):
        return check_branches(f"state[{source!r}]", state_value(state, source, "branches"))
    return check_branches("branches(state)", source(state))


def to_messages(name: str, value: Messages) -> list[BaseMessage]:
    """Return messages in LangChain's form.

    Args:
        name: Where they are from, for the message.
        value: The messages; text is a human's.

    Raises:
        InvalidRequestError: They are none.
    """
    try:
        messages: Any = [value] if _is_one_message(value) else value
        return convert_to_messages(messages)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise InvalidRequestError(
            f"{name}={value!r} is not possible: give text, or messages as LangChain takes them. "
            f"({error})"
        ) from error


def _items(branches: Branches) -> Iterator[tuple[str, BranchSpec]]:
    if isinstance(branches, Mapping):
        yield from branches.items()
    else:
        yield from ((str(i), spec) for i, spec in enumerate(branches))


def _is_one_message(value: object) -> bool:
    # a tuple of texts is LangChain's ("human", "text")
    return isinstance(value, (str, BaseMessage)) or (
        isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, str) for v in value)
    )
