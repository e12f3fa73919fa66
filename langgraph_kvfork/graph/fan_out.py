"""Running the branches of a fan-out: as tasks of a small graph of LangGraph's.

So each branch has a checkpoint namespace of its own. An interrupt in it gets its own answer, and a
checkpointer keeps what has finished: a fan-out that is resumed runs the other branches only.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import operator
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextvars import Context, ContextVar
from dataclasses import replace
from typing import Annotated, Any

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForChainRun,
    CallbackManager,
    CallbackManagerForChainRun,
)
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import (
    get_executor_for_config,
    set_config_context,
)
from langchain_core.runnables.utils import coro_with_context
from langgraph.constants import TAG_HIDDEN
from langgraph.errors import GraphBubbleUp, GraphInterrupt, ParentCommand
from langgraph.graph import START, StateGraph
from langgraph.types import Send
from typing_extensions import TypedDict

from langgraph_kvfork.branches.cancel_scope import CancelScope, cancel_scope
from langgraph_kvfork.errors import BranchCancelledError, InvalidRequestError
from langgraph_kvfork.graph.branches import Plan
from langgraph_kvfork.graph.function import NodeFunction
from langgraph_kvfork.hooks.branch_arguments import calling_with
from langgraph_kvfork.hooks.place import (
    BRANCH,
    FAN_OUT,
    branch_path,
    listening_to_tokens,
    token_listener_of,
    token_writer,
)
from langgraph_kvfork.hooks.sample import sampling
from langgraph_kvfork.hooks.task import fan_out_place, in_branch


class _State(TypedDict, total=False):
    names: list[str]
    ends: Annotated[dict[str, Any], operator.or_]
    winner: dict[str, Any]


class FanOut:
    """One fan-out while it runs.

    Args:
        plans: Its branches.
        config: The node's configuration.
        run_manager: The node's run.
        arguments: For every call.
        collects: Whether a branch's error stands where its answer would.
        races: Whether one answer is enough.
        judge: Which answer is; None: any.
        width: Most branches at a time.
        stream_tokens: Whether the branches' texts go to the graph's `custom` stream.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        config: RunnableConfig,
        run_manager: CallbackManagerForChainRun | AsyncCallbackManagerForChainRun,
        arguments: Mapping[str, Any],
        *,
        collects: bool,
        races: bool,
        judge: NodeFunction | None,
        width: int,
        stream_tokens: bool,
    ) -> None:
        self._plans = {plan.name: plan for plan in plans}
        self._config = config
        self._run_manager = run_manager
        self._arguments = arguments
        self._collects = collects
        self._races = races
        self._judge = judge
        self._width = width
        self._write = token_writer(begin=stream_tokens)
        self._place = fan_out_place(config, run_manager.run_id, list(self._plans))
        self._lock = threading.RLock()
        self._winner: dict[str, Any] | None = None
        self._failure: Exception | None = None
        self._scope = CancelScope()
        self._tasks: set[asyncio.Future[Any]] = set()

    def run(self) -> dict[str, Any]:
        """Run the branches, each in a thread of its own.

        Returns:
            What they ended with, by name, in their order; in a race, the winner's only.

        Raises:
            BaseException: A branch's error, if errors are not collected; or a graph's interrupts.
        """
        self._turns = threading.Semaphore(self._width)
        config = self._graph_config()
        call = functools.partial(_graph().invoke, self._input(), config)
        token = _current.set(self)
        try:
            # in a thread: this one can be interrupted while it waits, and then cancels the branches
            with (
                get_executor_for_config({"max_concurrency": 1}) as pool,
                cancel_scope() as scope,
                set_config_context(config) as context,
            ):
                self._scope = scope
                return self._ends(pool.submit(context.run, call).result())
        except Exception as error:  # noqa: BLE001 - raised again, unless a race is won
            return self._ends_by(error)
        finally:
            _current.reset(token)

    async def arun(self) -> dict[str, Any]:
        """As `run`, with tasks of the running event loop."""
        self._aturns = asyncio.Semaphore(self._width)
        token = _current.set(self)
        config = self._graph_config()
        try:
            with set_config_context(config) as context:
                call = _agraph().ainvoke(self._input(), config)
                return self._ends(await coro_with_context(call, context))
        except Exception as error:  # noqa: BLE001 - raised again, unless a race is won
            return self._ends_by(error)
        finally:
            _current.reset(token)

    #
    # around the graph
    #

    def _input(self) -> _State:
        return {"names": list(self._plans), "ends": {}}

    def _graph_config(self) -> RunnableConfig:
        is_async = isinstance(self._run_manager, AsyncCallbackManagerForChainRun)
        manager = AsyncCallbackManager if is_async else CallbackManager
        return {
            # handlers see the branches as the node's own, and nothing of this graph
            "callbacks": manager(handlers=[], parent_run_id=self._run_manager.run_id),
            "tags": [TAG_HIDDEN],
            "metadata": dict(self._config.get("metadata", {})),
            "run_name": FAN_OUT,
            # a pool of the default size would run the branches in waves
            "max_concurrency": len(self._plans) + 2,
            "recursion_limit": 10,
            "configurable": self._place.configurable,
        }

    def _ends(self, state: Mapping[str, Any]) -> dict[str, Any]:
        winner: dict[str, Any] | None = self._winner or state.get("winner")
        if winner is not None:
            return winner
        if state.get("__interrupt__"):  # outside of a graph, nobody is there to ask
            raise GraphInterrupt(tuple(state["__interrupt__"]))
        return {name: state["ends"][name] for name in self._plans if name in state["ends"]}

    def _ends_by(self, error: Exception) -> dict[str, Any]:
        if self._winner is not None:
            return self._winner
        if self._failure is None or error is self._failure or isinstance(error, GraphBubbleUp):
            raise error
        raise self._failure  # and not what ended a branch that was cancelled for it

    #
    # in a branch
    #

    def branch(self, name: str, config: RunnableConfig) -> _State:
        """Run a branch, and return its update of the fan-out's state."""
        with self._turns:
            if (update := self._update_ahead(name)) is not None:
                return update
            plan, config = self._in_branch(name, config)
            try:
                with self._around(plan, config) as context:
                    call = plan.llm.invoke
                    answer = context.run(call, plan.messages, config, **self._arguments)
            except Exception as error:  # noqa: BLE001 - raised again, or collected
                return self._failed(name, error, collects=self._collects)
            try:
                is_good = self._judge is None or self._judge.judge(answer, config)
            except Exception as error:  # noqa: BLE001 - raised again, or collected
                return self._failed(name, error, collects=False)
            return self._finished(name, answer, wins=self._races and is_good)

    async def abranch(self, name: str, config: RunnableConfig) -> _State:
        """As `branch`."""
        task = asyncio.ensure_future(self._abranch(name, config))
        self._tasks.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if self._winner is None:
                raise
            return {}
        finally:
            self._tasks.discard(task)

    async def _abranch(self, name: str, config: RunnableConfig) -> _State:
        async with self._aturns:
            if (update := self._update_ahead(name)) is not None:
                return update
            plan, config = self._in_branch(name, config)
            try:
                with self._around(plan, config) as context:
                    call = plan.llm.ainvoke(plan.messages, config, **self._arguments)
                    answer = await coro_with_context(call, context)
            except Exception as error:  # noqa: BLE001 - raised again, or collected
                return self._failed(name, error, collects=self._collects)
            try:
                is_good = self._judge is None or await self._judge.ajudge(answer, config)
            except Exception as error:  # noqa: BLE001 - raised again, or collected
                return self._failed(name, error, collects=False)
            return self._finished(name, answer, wins=self._races and is_good)

    def _update_ahead(self, name: str) -> _State | None:
        """Return a branch's update if it need not run; None if it must."""
        if self._winner is not None:
            return {}
        self._check_going_on()
        update: _State | None = self._place.finished.get(name)
        return update

    def _in_branch(self, name: str, config: RunnableConfig) -> tuple[Plan, RunnableConfig]:
        """Return a branch's plan, and the configuration of its calls.

        That is the node's, so that the branches' runs, streams and reports are the node's own, with
        the branch's task of LangGraph's, so that its interrupts are not.
        """
        plan = self._plans.get(name)
        if plan is None:
            raise InvalidRequestError(
                f"Branch {name!r} is not there any more, though it has not finished: functions of "
                "the state must return the same branches when a graph is resumed."
            )
        metadata = self._config.get("metadata") or {}
        # not merged by LangChain, which would add those of the small graph
        own: RunnableConfig = {
            **self._config,
            "callbacks": self._run_manager.get_child(),
            "tags": [*(self._config.get("tags") or []), f"branch:{name}"],
            "metadata": {**metadata, "kvfork_branch": branch_path(metadata, name)},
            "run_name": f"branch:{name}",
            "configurable": in_branch(config["configurable"], self._config),
        }
        return plan, own

    @contextlib.contextmanager
    def _around(self, plan: Plan, config: RunnableConfig) -> Iterator[Context]:
        """Make the context that a branch's model is called in.

        LangChain adds the tags of the context's configuration, which are those of the small graph.
        """
        listener = token_listener_of(config.get("metadata", {}), self._write)
        with (
            listening_to_tokens(listener),
            sampling(plan.sample),
            calling_with(plan.arguments),
            set_config_context(config) as context,
        ):
            yield context

    def _finished(self, name: str, answer: Any, *, wins: bool) -> _State:
        self._check_going_on()
        update: _State = {}
        if wins:
            with self._lock:
                if self._winner is None:
                    self._winner = {name: answer}
                    update = {"winner": self._winner}
            self._cancel()
        elif not self._races:
            update = {"ends": {name: answer}}
        self._place.finished[name] = update
        return update

    def _failed(self, name: str, error: Exception, *, collects: bool) -> _State:
        if isinstance(error, ParentCommand):
            # a graph in the branch hands over to the graph around it: the node's, not this one
            outer = self._config.get("configurable", {}).get("checkpoint_ns", "")
            raise ParentCommand(replace(error.args[0], graph=outer)) from error
        if isinstance(error, GraphBubbleUp):
            raise error
        if self._winner is not None:
            return {}  # it was cancelled
        if collects and not self._scope.is_cancelled:
            self._place.finished[name] = update = _State(ends={name: error})
            return update
        # a branch that was cancelled has not failed: another one did, or its caller has given up
        if not isinstance(error, BranchCancelledError):
            with self._lock:
                self._failure = self._failure or error
        self._scope.cancel()
        raise error

    def _check_going_on(self) -> None:
        if self._failure is not None:
            raise BranchCancelledError("Another branch of the fan-out has failed.")

    def _cancel(self) -> None:
        self._scope.cancel()
        this = asyncio.current_task() if self._tasks else None
        for task in self._tasks:
            if task is not this:
                task.cancel()


_current: ContextVar[FanOut] = ContextVar("kvfork_fan_out")


def _branch(name: str, config: RunnableConfig) -> _State:
    return _current.get().branch(name, config)


async def _abranch(name: str, config: RunnableConfig) -> _State:
    return await _current.get().abranch(name, config)


def _sends(state: _State) -> list[Send]:
    return [Send(BRANCH, name) for name in state["names"]]


@functools.cache
def _graph() -> Any:
    return _compiled(_branch)


@functools.cache
def _agraph() -> Any:
    return _compiled(_abranch)


def _compiled(branch: Any) -> Any:
    graph = StateGraph(_State)
    graph.add_node(BRANCH, branch)
    graph.add_conditional_edges(START, _sends, [BRANCH])
    return graph.compile()
