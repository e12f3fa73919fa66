"""The node that asks several things about one context at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, as_completed
from typing import Any, Literal, TypeAlias, get_args

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_executor_for_config, merge_configs, patch_config
from langgraph.errors import GraphBubbleUp
from langgraph.types import Command

from langgraph_kvfork.checks import check_integer, require
from langgraph_kvfork.engine.cancel_scope import cancel_scope
from langgraph_kvfork.graph.branches import (
    BranchSource,
    Plan,
    branches_of_state,
    check_branches,
    plan_branches,
    plan_samples,
)
from langgraph_kvfork.graph.node import check_key, refusing_unknown_arguments, state_value
from langgraph_kvfork.hooks.place import Listener, listening_to_tokens, stream_writer
from langgraph_kvfork.order.prompt import to_messages

Output: TypeAlias = Literal["dict", "list", "reduce"]
OnError: TypeAlias = Literal["raise", "collect"]
Race: TypeAlias = bool | Callable[[Any], bool]


@refusing_unknown_arguments
class ForkNode(Runnable[Any, Any]):
    """Answers the state's messages once per branch, all at a time, each with an ending of its own.

    The messages that the branches share are prefilled once; each branch is a fork.

    Each branch runs with the tag `branch:<name>` and `{"kvfork_branch": <name>}` in its metadata,
    so `stream_mode="messages"` tells whose token it is. Branches in a list are named "0", "1", ….

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
            the answers' seeds are `seed`, `seed + 1`, …
        messages_key: The state's key of the shared messages.
        output_key: The state's key of the answers. The graph's state must have it: LangGraph drops
            updates of keys that it does not know, and says nothing.
        output: "dict": its value is a dict, by the branches' names; "list": a list, in their order;
            "reduce": each answer is an update of its own, for the key's reducer, as if the branches
            were nodes. None: as the branches are given.
        on_error: "raise": if a branch fails, the others are cancelled and its error is raised;
            "collect": its exception stands where its answer would. (Checkpointers keep exceptions
            as text.)
        race: The first answer wins (True), or the first for which this function returns true; the
            other branches are cancelled. Its answer is the only one then; if no branch wins, there
            is none, and only the exceptions that `on_error` collects.
        max_concurrency: Most branches at a time; None: all.
        stream_tokens: Write the branches' texts to the graph's `custom` stream too, while they are
            generated, as `{"branch": <name>, "token": <text>}`; those of a `ChatKVFork`, also with
            a parser behind. (On Python 3.10 it cannot in async graphs, as `PrefillNode`.)

    Raises:
        InvalidRequestError: An argument is wrong; from `invoke`: the state has no such key, or what
            it holds, or what a function returned, are no branches.
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
        require(isinstance(llm, Runnable), "llm", llm, "give a ChatKVFork")
        check_key("messages_key", messages_key)
        check_key("output_key", output_key)
        _check_source(branches, n)
        _check_choice("output", output, (None, *get_args(Output)))
        _check_choice("on_error", on_error, get_args(OnError))
        require(isinstance(race, bool) or callable(race), "race", race, "give True or a function")
        if max_concurrency is not None:
            remedy = "give 1 or more, or None for all"
            check_integer("max_concurrency", max_concurrency, remedy, low=1)
        good = isinstance(stream_tokens, bool)
        require(good, "stream_tokens", stream_tokens, "give True or False")
        require(
            output != "reduce" or on_error == "raise",
            "on_error",
            on_error,
            'give "raise", since a reducer takes no exceptions, or another output than "reduce"',
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
        plans, output = self._plan(state, kwargs)
        results = self._results(plans)
        write = stream_writer() if self.stream_tokens else None

        def run(plan: Plan) -> Any:
            with listening_to_tokens(_listener(write, plan.name)):
                return plan.llm.invoke(
                    plan.messages,
                    _branch_config(config, run_manager, plan.name),
                    **{**kwargs, **plan.arguments},
                )

        # a pool of the default size would run the branches in waves
        pool_config = patch_config(config, max_concurrency=self._width(plans))
        with get_executor_for_config(pool_config) as pool, cancel_scope() as scope:
            futures = {pool.submit(run, plan): plan.name for plan in plans}
            try:
                for future in as_completed(futures):
                    results.take(futures[future], future)
                    if results.decided:
                        break
            finally:
                for future in futures:
                    future.cancel()
                scope.cancel()
        return results.update(self.output_key, output)

    async def _afork(
        self,
        state: Any,
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Any:
        plans, output = self._plan(state, kwargs)
        results = self._results(plans)
        turns = asyncio.Semaphore(self._width(plans))
        write = stream_writer() if self.stream_tokens else None

        async def run(plan: Plan) -> Any:
            async with turns:
                with listening_to_tokens(_listener(write, plan.name)):
                    return await plan.llm.ainvoke(
                        plan.messages,
                        _branch_config(config, run_manager, plan.name),
                        **{**kwargs, **plan.arguments},
                    )

        tasks = {asyncio.ensure_future(run(plan)): plan.name for plan in plans}
        pending = set(tasks)
        try:
            while pending and not results.decided:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if not results.decided:
                        results.take(tasks[task], task)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return results.update(self.output_key, output)

    def _plan(self, state: Any, arguments: Mapping[str, Any]) -> tuple[list[Plan], Output]:
        """Return the branches to run, and the form of their results."""
        name = f"state[{self.messages_key!r}]"
        shared = to_messages(name, state_value(state, self.messages_key, "messages"))
        if self.branches is None:
            assert self.n is not None
            return plan_samples(self.n, shared, self.llm, arguments), self.output or "list"
        branches = self.branches
        if isinstance(branches, str) or callable(branches):
            branches = branches_of_state(branches, state)
        plans = plan_branches(branches, shared, self.llm, state)
        return plans, self.output or ("dict" if isinstance(branches, Mapping) else "list")

    def _results(self, plans: list[Plan]) -> _Results:
        return _Results([plan.name for plan in plans], self.on_error, self.race)

    def _width(self, plans: list[Plan]) -> int:
        return max(min(self.max_concurrency or len(plans), len(plans)), 1)


def _check_source(branches: object, n: object) -> None:
    require((branches is None) != (n is None), "n", n, "give either branches or n")
    if n is not None:
        check_integer("n", n, "give how many answers you want, 1 or more", low=1)
    elif isinstance(branches, str):
        check_key("branches", branches)
    elif not callable(branches):
        checked = check_branches("branches", branches)
        require(bool(checked), "branches", branches, "give at least one")


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    require(value in choices, name, value, f"give one of {', '.join(map(repr, choices))}")


def _branch_config(
    config: RunnableConfig,
    run_manager: CallbackManagerForChainRun | AsyncCallbackManagerForChainRun,
    name: str,
) -> RunnableConfig:
    return merge_configs(
        patch_config(config, callbacks=run_manager.get_child()),
        {
            "tags": [f"branch:{name}"],
            "metadata": {"kvfork_branch": name},
            "run_name": f"branch:{name}",
        },
    )


def _listener(write: Callable[[Any], None] | None, branch: str) -> Listener | None:
    if write is None:
        return None

    def tell(text: str) -> None:
        if text:
            write({"branch": branch, "token": text})

    return tell


class _Results:
    """Takes the branches' ends as they come.

    Args:
        names: The branches.
        on_error: What becomes of a branch that fails.
        race: Whether one answer is enough, and which.

    Attributes:
        decided: Whether what the other branches would say makes no difference any more.
    """

    def __init__(self, names: Sequence[str], on_error: OnError, race: Race) -> None:
        self.decided = not names
        self._names = names
        self._collects = on_error == "collect"
        self._race = race
        self._ends: dict[str, Any] = {}

    def take(self, name: str, end: Future[Any] | asyncio.Future[Any]) -> None:
        """Take a branch's end.

        Raises:
            BaseException: The branch's error, if errors are not collected, or if it is none (a
                graph's interrupt, a cancelled task).
        """
        error = end.exception()
        if error is None:
            self._answer(name, end.result())
        elif self._collects and isinstance(error, Exception) and _is_failure(error):
            self._ends[name] = error
        else:
            raise error

    def update(self, key: str, output: Output) -> Any:
        """Return the update of the graph's state."""
        ends = {name: self._ends[name] for name in self._names if name in self._ends}
        if output == "dict":
            return {key: ends}
        if output == "list":
            return {key: list(ends.values())}
        # as many nodes would: a write for each, which LangGraph passes to the key's reducer
        return [Command(update={key: end}) for end in ends.values()] or {}

    def _answer(self, name: str, answer: Any) -> None:
        if not self._race:
            self._ends[name] = answer
        elif self._race is True or self._race(answer):
            self._ends = {name: answer}
            self.decided = True


def _is_failure(error: Exception) -> bool:
    # LangGraph's interrupts are exceptions that must reach it
    return not isinstance(error, GraphBubbleUp)
