"""The branches of a fan-out: the forms in which a caller passes them, and their calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, Union, cast

from langchain_core.language_models import BaseLanguageModel
from langchain_core.messages import BaseMessage
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.pregel.protocol import PregelProtocol

from langgraph_kvfork.arguments import Keep, Namespace, checked
from langgraph_kvfork.chat.model import ChatKVFork
from langgraph_kvfork.checks import is_c_text, require
from langgraph_kvfork.errors import InvalidRequestError
from langgraph_kvfork.graph.function import Calls, NodeFunction, as_function
from langgraph_kvfork.graph.model import answers_first, find_model
from langgraph_kvfork.graph.node import refusing_unknown_arguments, state_value
from langgraph_kvfork.hooks.sample import Sample
from langgraph_kvfork.order.join import join
from langgraph_kvfork.order.prompt import Messages, is_messages, to_messages

BranchFunction: TypeAlias = Union[Callable[..., Any], Runnable[Any, Any]]  # noqa: UP007
"""A function of the state, sync or async, that may take `config` or `runtime`; or a runnable."""

BranchMessages: TypeAlias = Union[Messages, BranchFunction]  # noqa: UP007
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
        llm: The model that answers; None: the node's `llm`. Arguments are bound to it as everywhere
            in LangChain: `llm.bind(...)`, `llm.bind_tools(...)`, `llm.with_structured_output(...)`.
            Tools stand at the beginning of a prompt, so branches share it if they have the same.
            An agent, or another compiled graph, gets the messages as its state's.
        keep: What the branch leaves for others, as `ChatKVFork.keep` says it, for each call of a
            `ChatKVFork` in it; None: as the model has it.
        namespace: With whom it shares prefixes, likewise. It shares the messages of the node with
            the branches of its own namespace only.

    Both are for all calls of the branch, whatever is wrapped around the model; what is bound to a
    model, or given to a call, comes on top.

    Raises:
        InvalidRequestError: An argument is wrong; from the node: `keep` or `namespace` is for
            another model than a `ChatKVFork`.
    """

    messages: BranchMessages
    llm: Runnable[Any, Any] | None = None
    keep: Keep | None = field(default=None, kw_only=True)
    namespace: Namespace = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        require(
            not _is_model(self.messages),
            "messages",
            self.messages,
            "pass what to ask first, and the model after it: ForkBranch(messages, llm)",
        )
        require(
            as_function("messages", self.messages, "state") is not None
            or is_messages(self.messages),
            "messages",
            self.messages,
            "pass text, a list of messages, or a function of the state that returns one of these",
        )
        require(
            self.llm is None or isinstance(self.llm, Runnable),
            "llm",
            self.llm,
            "pass a ChatKVFork, or None for the node's",
        )
        checked(ForkBranch, {"keep": self.keep, "namespace": self.namespace})

    @property
    def arguments(self) -> dict[str, Any]:
        """What the branch says for its calls: those of `keep` and `namespace` that were given."""
        given = {"keep": self.keep, "namespace": self.namespace}
        return {name: value for name, value in given.items() if value is not None}


BranchSpec: TypeAlias = Union[BranchMessages, ForkBranch]  # noqa: UP007
Branches: TypeAlias = Union[Mapping[str, BranchSpec], Sequence[BranchSpec]]  # noqa: UP007
"""Branches by name, or in order; then their names are "0", "1", …"""

BranchSource: TypeAlias = Union[Branches, str, BranchFunction]  # noqa: UP007
"""Branches; or the state's key of them, or a function of the state that returns them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A branch that is ready to run.

    Attributes:
        name: Its name.
        llm: The model that answers.
        messages: The whole prompt; for a graph, its input.
        sample: Which of several answers to one prompt it is; None: of its own.
        arguments: For all calls of the model in it: `keep` and `namespace`.
    """

    name: str
    llm: Runnable[Any, Any]
    messages: Any
    sample: Sample | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


def check_branches(name: str, branches: object) -> Branches:
    """Refuse a value that is not branches.

    Args:
        name: Where they are from, for the message.
        branches: What to look at.

    Raises:
        InvalidRequestError: It names what is wrong.
    """
    if not isinstance(branches, (Mapping, Sequence)) or isinstance(branches, (str, bytes)):
        raise InvalidRequestError(
            f"{name}={branches!r} is not possible: pass a dict with one entry per branch, from its "
            "name to what it asks; or a list."
        )
    for key, spec in _items(branches):
        require(is_c_text(key) and bool(key), name, {key: spec}, "name it with text")
        where = f"{name}[{key if isinstance(branches, Sequence) else repr(key)}]"
        asked = spec.messages if isinstance(spec, ForkBranch) else spec
        function = None if _is_model(asked) else as_function(where, asked, "state")
        require(
            function is not None or is_messages(asked),
            where,
            spec,
            "pass text, a list of messages, a function of the state that returns one of these, or, "
            "for a model of its own, ForkBranch(messages, llm)",
        )
        if function is None:
            to_messages(where, cast("Messages", asked))
    return branches


def plan_branches(
    branches: Branches, shared: list[BaseMessage], llm: Runnable[Any, Any]
) -> Calls[list[Plan]]:
    """Return the branches that a fan-out runs.

    Args:
        branches: Checked ones.
        shared: What all prompts begin with.
        llm: The model that answers, if the branch has nobody of its own.

    Yields:
        The functions among them, to be called with the state.

    Raises:
        InvalidRequestError: A function returned something else than messages.
    """
    plans = []
    for name, spec in _items(branches):
        asked: Any = spec.messages if isinstance(spec, ForkBranch) else spec
        own = spec.llm if isinstance(spec, ForkBranch) else None
        arguments = spec.arguments if isinstance(spec, ForkBranch) else {}
        answers = llm if own is None else own
        where = f"branches[{name!r}]"
        if (function := as_function(where, asked, "state")) is not None:
            asked = yield function
            if isinstance(asked, Mapping) and is_graph(answers):
                state = _graph_state(name, asked, shared)
                plans.append(Plan(name, answers, state, arguments=arguments))
                continue
            if isinstance(asked, PromptValue):
                asked = asked.to_messages()
            if not is_messages(asked):
                raise InvalidRequestError(
                    f"{where} returned {asked!r}: it must return text or messages."
                )
        ending = to_messages(where, cast("Messages", asked))
        prompt = _input(name, answers, join(shared, ending))
        plans.append(Plan(name, answers, prompt, arguments=arguments))
    return plans


def check_arguments(plans: Sequence[Plan], config: RunnableConfig) -> None:
    """Refuse branches whose arguments are for a model that does not know them.

    What is in a graph or a function is not seen, and may be a `ChatKVFork`.

    Args:
        plans: The branches.
        config: The node's, by which configurable models are chosen.

    Raises:
        InvalidRequestError: Another chat model than a `ChatKVFork` answers one of them.
    """
    for plan in plans:
        if not plan.arguments:
            continue
        found = find_model(plan.llm, BaseLanguageModel, config)  # type: ignore[type-abstract]
        for name, value in plan.arguments.items():
            require(
                found is None or isinstance(found.model, ChatKVFork),
                f"branches[{plan.name!r}].{name}",
                value,
                f"its model is a {type(found.model).__name__ if found else None}, which keeps "
                "nothing, so leave it out, or pass a ChatKVFork",
            )


def plan_samples(n: int, shared: list[BaseMessage], llm: Runnable[Any, Any]) -> list[Plan]:
    """Return `n` branches that answer the same prompt.

    Args:
        n: How many.
        shared: The prompt.
        llm: The model that answers.
    """
    prompt = join(shared)
    return [Plan(str(i), llm, _input(str(i), llm, prompt), Sample(i, n)) for i in range(n)]


def is_graph(llm: Runnable[Any, Any]) -> bool:
    """Return whether a compiled graph answers, such as an agent."""
    return answers_first(llm, PregelProtocol) is not None  # type: ignore[type-abstract]


def _input(name: str, llm: Runnable[Any, Any], prompt: list[BaseMessage]) -> Any:
    """Return a branch's input: messages, or a graph's state with them.

    Raises:
        InvalidRequestError: The graph's state has no messages.
    """
    graph = answers_first(llm, PregelProtocol)  # type: ignore[type-abstract]
    if graph is None:
        return prompt
    if "messages" not in getattr(graph, "channels", {"messages": None}):
        raise InvalidRequestError(
            f"branches[{name!r}] is answered by a graph whose state has no key 'messages': pass "
            "the branch a function of the state that returns the graph's input, a dict."
        )
    return {"messages": prompt}


def _graph_state(name: str, given: Mapping[Any, Any], shared: list[BaseMessage]) -> dict[Any, Any]:
    state = dict(given)
    if "messages" in state:
        own = to_messages(f"branches[{name!r}]['messages']", state["messages"])
        state["messages"] = join(shared, own)
    return state


def branches_of_state(source: str | BranchFunction, state: Any) -> Calls[Branches]:
    """Return the branches that a state's key holds, or that a function of the state returns.

    Yields:
        The function, to be called with the state.

    Raises:
        InvalidRequestError: The state has no such key, or it is something else.
    """
    if isinstance(source, str):
        return check_branches(f"state[{source!r}]", state_value(state, source, "branches"))
    return check_branches("branches(state)", (yield NodeFunction("branches", source, "state")))


def functions_of(branches: object) -> list[NodeFunction]:
    """Return the functions among a node's branches."""
    if not isinstance(branches, (Mapping, Sequence)) or isinstance(branches, str):
        function = as_function("branches", branches, "state")
        return [] if function is None else [function]
    asked = [
        (name, spec.messages if isinstance(spec, ForkBranch) else spec)
        for name, spec in _items(branches)
    ]
    functions = (as_function(f"branches[{name!r}]", each, "state") for name, each in asked)
    return [function for function in functions if function is not None]


def _items(branches: Branches) -> Iterator[tuple[str, BranchSpec]]:
    if isinstance(branches, Mapping):
        yield from branches.items()
    else:
        yield from ((str(i), spec) for i, spec in enumerate(branches))


def _is_model(given: object) -> bool:
    return answers_first(given, BaseLanguageModel) is not None  # type: ignore[type-abstract]
