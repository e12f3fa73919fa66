"""The branches of a fan-out: what a caller may give, and the calls that come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, Union

from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable
from langgraph.pregel.protocol import PregelProtocol

from langgraph_kvfork.checks import is_c_text, require
from langgraph_kvfork.engine.request import RANDOM_SEED
from langgraph_kvfork.errors import InvalidRequestError
from langgraph_kvfork.graph.node import refusing_unknown_arguments, state_value, underlying_model
from langgraph_kvfork.order.join import join
from langgraph_kvfork.order.prompt import Messages, is_messages, to_messages

BranchMessages: TypeAlias = Union[Messages, Callable[[Any], Messages]]  # noqa: UP007
"""What a branch adds to the shared messages: these, or what a function of the state returns."""


@refusing_unknown_arguments
@dataclass(frozen=True, slots=True)
class ForkBranch:
    """A branch with a model of its own.

    Example:
        ```python
        ForkBranch("List the dates.", llm.with_structured_output(Dates))
        ForkBranch("Be inventive.", llm.bind(temperature=1.5))
        ```

    Attributes:
        messages: What it adds to the shared messages.
        llm: Who answers; None: the node's `llm`. Arguments are bound to it as everywhere in
            LangChain: `llm.bind(...)`, `llm.bind_tools(...)`, `llm.with_structured_output(...)`.
            Tools stand at the beginning of a prompt, so branches share it if they have the same.
            An agent, or another compiled graph, gets the messages as its state's.
    """

    messages: BranchMessages
    llm: Runnable[Any, Any] | None = None

    def __post_init__(self) -> None:
        require(
            not isinstance(self.messages, Runnable),
            "messages",
            self.messages,
            "give what to ask first, and the model after it: ForkBranch(messages, llm)",
        )
        require(
            callable(self.messages) or is_messages(self.messages),
            "messages",
            self.messages,
            "give text, a list of messages, or a function of the state that returns one of these",
        )
        require(
            self.llm is None or isinstance(self.llm, Runnable),
            "llm",
            self.llm,
            "give a ChatKVFork, or None for the node's",
        )


BranchSpec: TypeAlias = Union[BranchMessages, ForkBranch]  # noqa: UP007
Branches: TypeAlias = Union[Mapping[str, BranchSpec], Sequence[BranchSpec]]  # noqa: UP007
"""Branches by name, or in order; then their names are "0", "1", …"""

BranchSource: TypeAlias = Union[Branches, str, Callable[[Any], Branches]]  # noqa: UP007
"""Branches; or the state's key of them, or a function of the state that returns them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A branch that is ready to run.

    Attributes:
        name: Its name.
        llm: Who answers.
        messages: The whole prompt; for a graph, its input.
        arguments: For the call, besides the node's.
    """

    name: str
    llm: Runnable[Any, Any]
    messages: Any
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
        asked: Any = spec.messages if isinstance(spec, ForkBranch) else spec
        own = spec.llm if isinstance(spec, ForkBranch) else None
        answers = llm if own is None else own
        if callable(asked):
            asked = asked(state)
            if isinstance(asked, Mapping) and is_graph(answers):
                plans.append(Plan(name, answers, _graph_state(name, asked, shared)))
                continue
            if not is_messages(asked):
                raise InvalidRequestError(
                    f"branches[{name!r}] returned {asked!r}: it must return text or messages."
                )
        ending = to_messages(f"branches[{name!r}]", asked)
        plans.append(Plan(name, answers, _input(name, answers, join(shared, ending))))
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
    prompt = join(shared)
    return [Plan(str(i), llm, _input(str(i), llm, prompt), own[i]) for i in range(n)]


def is_graph(llm: Runnable[Any, Any]) -> bool:
    """Return whether a compiled graph answers, such as an agent."""
    return isinstance(underlying_model(llm)[0], PregelProtocol)


def _input(name: str, llm: Runnable[Any, Any], prompt: list[BaseMessage]) -> Any:
    """Return what a branch is called with: messages, or a graph's state with them.

    Raises:
        InvalidRequestError: The graph's state has no messages.
    """
    graph = underlying_model(llm)[0]
    if not isinstance(graph, PregelProtocol):
        return prompt
    if "messages" not in getattr(graph, "channels", {"messages": None}):
        raise InvalidRequestError(
            f"branches[{name!r}] is answered by a graph whose state has no key 'messages': give "
            "the branch a function of the state that returns the graph's input, a dict."
        )
    return {"messages": prompt}


def _graph_state(name: str, given: Mapping[Any, Any], shared: list[BaseMessage]) -> dict[Any, Any]:
    state = dict(given)
    if "messages" in state:
        own = to_messages(f"branches[{name!r}]['messages']", state["messages"])
        state["messages"] = join(shared, own)
    return state


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
        return [{"seed": (seed + i) % RANDOM_SEED} for i in range(n)]
    return [{} for _ in range(n)]


def branches_of_state(source: str | Callable[[Any], Branches], state: Any) -> Branches:
    """Return the branches that a state's key holds, or that a function of the state returns.

    Raises:
        InvalidRequestError: The state has no such key, or it is something else.
    """
    if isinstance(source, str):
        return check_branches(f"state[{source!r}]", state_value(state, source, "branches"))
    return check_branches("branches(state)", source(state))


def _items(branches: Branches) -> Iterator[tuple[str, BranchSpec]]:
    if isinstance(branches, Mapping):
        yield from branches.items()
    else:
        yield from ((str(i), spec) for i, spec in enumerate(branches))
