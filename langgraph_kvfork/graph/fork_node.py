"""The node that asks several things about one context at once.

A call goes through three steps: plan the branches from the arguments and the state (`branches.py`),
run them as tasks of a small graph (`fan_out.py`), and make the state's update of what they ended
with. The node does nothing to share the context: the branches' prompts begin alike, and the engine
finds that out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, Union, get_args

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.types import Command

from langgraph_kvfork.checks import check_integer, require
from langgraph_kvfork.graph.branches import (
    BranchSource,
    Plan,
    branches_of_state,
    check_arguments,
    check_branches,
    functions_of,
    plan_branches,
    plan_samples,
)
from langgraph_kvfork.graph.fan_out import FanOut
from langgraph_kvfork.graph.function import (
    Calls,
    as_function,
    awith_calls,
    check_sync,
    with_calls,
)
from langgraph_kvfork.graph.node import (
    check_key,
    check_written,
    refusing_unknown_arguments,
    state_value,
)
from langgraph_kvfork.order.prompt import to_messages

Output: TypeAlias = Literal["dict", "list", "reduce"]
OnError: TypeAlias = Literal["raise", "collect"]
Race: TypeAlias = Union[bool, Callable[..., Any], Runnable[Any, Any]]  # noqa: UP007


@refusing_unknown_arguments
class ForkNode(Runnable[Any, Any]):
    """Answers the state's messages once per branch, all at a time, each with an ending of its own.

    The messages that the branches share are prefilled once; each branch is a fork.

    Each branch runs with the tag `branch:<name>` and `{"kvfork_branch": <name>}` in its metadata,
    so `stream_mode="messages"` tells whose token it is. Branches in a list are named "0", "1", …;
    those of a fan-out within a branch "outer/inner".

    Each branch is a task of LangGraph's, with a checkpoint namespace of its own: it gets the answer
    to its own `interrupt`, and a fan-out that is resumed or tried again runs only the branches that
    had not finished.

    Functions may be async, where the graph is called so. They may take `config`, `runtime`, `store`
    or `writer` too, as nodes of LangGraph do, or be runnables.

    Example:
        ```python
        ForkNode(llm, {"risks": "List the risks.", "dates": "List the dates."})
        # state["branches"] == {"risks": AIMessage(...), "dates": AIMessage(...)}
        ForkNode(llm, "questions")  # one branch for each item of state["questions"]
        ForkNode(llm, n=8)  # eight answers to state["messages"]
        ForkNode(llm, n=8, race=lambda answer: is_right(answer.text))  # the first that is right
        ```

    Args:
        llm: The chat model, or whatever takes messages: with arguments bound, with a parser behind.
            Or an agent or another compiled graph: it gets the messages as `{"messages": [...]}`, or
            the dict that a branch's function returns, and its answer is its last state.
        branches: By name, or in a list: text of a human's message, messages, a function of the
            state that returns one of these, or a `ForkBranch`, which can have another model. Or the
            state's key of such a dict or list; or a function of the state that returns one.
        n: Instead of branches: how many answers to give to the shared messages alone. With a `seed`
            of a `ChatKVFork` the answers' seeds are `seed`, `seed + 1`, …, whatever wraps it. At
            temperature 0 they are equal: an `EqualAnswersWarning`.
        messages_key: The state's key of the shared messages.
        output_key: The state's key of the answers. The graph's state must have it.
        output: "dict": its value is a dict, by the branches' names; "list": a list, in their order;
            "reduce": each answer is an update of its own, for the key's reducer, as if the branches
            were nodes. None: as the branches are given.
        on_error: "raise": if a branch fails, the others are cancelled and its error is raised;
            "collect": its exception stands where its answer would. (Checkpointers keep exceptions
            as text.)
        race: The first answer wins (True), or the first for which this function returns true (it is
            called in the branch, and by several branches at a time); the others are cancelled. Its
            answer is the only one then; if no branch wins, there is none, and only the exceptions
            that `on_error` collects.
        max_concurrency: Most branches at a time; None: all.
        stream_tokens: Write the branches' texts to the graph's `custom` stream too, while they are
            generated, as `{"node": <path>, "branch_name": <name>, "token": <text>}`; those of a
            `ChatKVFork`, also with a parser behind. (On Python 3.10 it cannot in async graphs, as
            `PrefillNode`.)

    Raises:
        InvalidRequestError: An argument is wrong; from `invoke`: the state has no such key, the key
            or a function has something else than branches, or a function is async.
    """

    def __init__(
        self,
        llm: Runnable[Any, Any],
        branches: BranchSource | None = None,
        *,
        n: int | None = None,
        messages_key: str = "messages",
        output_key: str = "branches",
        output: Output | None = None,
        on_error: OnError = "raise",
        race: Race = False,
        max_concurrency: int | None = None,
        stream_tokens: bool = False,
    ) -> None:
        require(isinstance(llm, Runnable), "llm", llm, "pass a ChatKVFork")
        check_key("messages_key", messages_key)
        check_key("output_key", output_key)
        _check_source(branches, n)
        _check_choice("output", output, (None, *get_args(Output)))
        _check_choice("on_error", on_error, get_args(OnError))
        self._judge = as_function("race", race, "answer")
        is_valid = isinstance(race, bool) or self._judge is not None
        require(is_valid, "race", race, "pass True, or a function of an answer")
        if max_concurrency is not None:
            remedy = "pass 1 or more, or None for all"
            check_integer("max_concurrency", max_concurrency, remedy, low=1)
        is_valid = isinstance(stream_tokens, bool)
        require(is_valid, "stream_tokens", stream_tokens, "pass True or False")
        require(
            output != "reduce" or on_error == "raise",
            "on_error",
            on_error,
            'pass "raise", since a reducer takes no exceptions, or another output than "reduce"',
        )
        self.llm = llm
        self.branches = branches
        self.n = n
        self.messages_key = messages_key
        self.output_key = output_key
        self.output = output
        self.on_error = on_error
        self.race = race
        self.max_concurrency = max_concurrency
        self.stream_tokens = stream_tokens

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Run all branches, each in a thread of its own.

        Args:
            input: The graph's state.
            config: The run's configuration. Its `max_concurrency` does not hold back branches.
            **kwargs: For every call of `llm`.

        Returns:
            The update of the state.
        """
        return self._call_with_config(self._fork, input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Run all branches as tasks of the running event loop."""
        return await self._acall_with_config(self._afork, input, config, **kwargs)

    def _fork(
        self,
        state: Any,
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Any:
        check_written(config, self, self.output_key)
        check_sync([self._judge, *functions_of(self.branches)])
        plans, output = with_calls(self._plan(state), state, config)
        ends = self._fan_out(plans, config, run_manager, kwargs).run() if plans else {}
        return self._update(ends, output)

    async def _afork(
        self,
        state: Any,
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Any:
        check_written(config, self, self.output_key)
        plans, output = await awith_calls(self._plan(state), state, config)
        ends = await self._fan_out(plans, config, run_manager, kwargs).arun() if plans else {}
        return self._update(ends, output)

    def _plan(self, state: Any) -> Calls[tuple[list[Plan], Output]]:
        """Return the branches to run, and the form of their results."""
        name = f"state[{self.messages_key!r}]"
        shared = to_messages(name, state_value(state, self.messages_key, "messages"))
        if self.branches is None:
            assert self.n is not None
            return plan_samples(self.n, shared, self.llm), self.output or "list"
        branches = self.branches
        if isinstance(branches, (str, Runnable)) or callable(branches):
            branches = yield from branches_of_state(branches, state)
        plans = yield from plan_branches(branches, shared, self.llm)
        return plans, self.output or ("dict" if isinstance(branches, Mapping) else "list")

    def _fan_out(
        self,
        plans: Sequence[Plan],
        config: RunnableConfig,
        run_manager: CallbackManagerForChainRun | AsyncCallbackManagerForChainRun,
        arguments: Mapping[str, Any],
    ) -> FanOut:
        check_arguments(plans, config)
        return FanOut(
            plans,
            config,
            run_manager,
            arguments,
            collects=self.on_error == "collect",
            races=self.race is not False,
            judge=self._judge,
            width=min(self.max_concurrency or len(plans), len(plans)),
            stream_tokens=self.stream_tokens,
        )

    def _update(self, ends: dict[str, Any], output: Output) -> Any:
        """Return the update of the graph's state."""
        if output == "dict":
            return {self.output_key: ends}
        if output == "list":
            return {self.output_key: list(ends.values())}
        # as many nodes would: a write for each, which LangGraph passes to the key's reducer
        return [Command(update={self.output_key: end}) for end in ends.values()] or {}


def _check_source(branches: object, n: object) -> None:
    require((branches is None) != (n is None), "n", n, "pass either branches or n")
    if n is not None:
        check_integer("n", n, "pass how many answers you want, 1 or more", low=1)
    elif isinstance(branches, str):
        check_key("branches", branches)
    elif as_function("branches", branches, "state") is None:
        checked = check_branches("branches", branches)
        require(bool(checked), "branches", branches, "pass at least one")


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    require(value in choices, name, value, f"pass one of {', '.join(map(repr, choices))}")
