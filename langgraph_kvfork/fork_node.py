"""The node that asks several things about one context at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from typing import Any, TypeAlias, Union

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.messages import BaseMessage, HumanMessage, convert_to_messages
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_executor_for_config, merge_configs, patch_config

from langgraph_kvfork._cancel_scope import cancel_scope
from langgraph_kvfork._checks import require
from langgraph_kvfork._node import check_key, state_value
from langgraph_kvfork.errors import InvalidRequestError

Messages: TypeAlias = str | Sequence[Any]
"""Text of a human's message, or messages in any form that LangChain takes."""

BranchSpec: TypeAlias = Union[Messages, Callable[[Any], Messages]]  # noqa: UP007
"""What a branch adds to the shared messages: these, or what a function of the state returns."""


class ForkNode(Runnable[Any, dict[str, Any]]):
    """Answers the state's messages once per branch, all at a time, each with an ending of its own.

    The messages that the branches share are prefilled once; each branch is a fork. The result is
    `{output_key: {name: answer}}` in the order given.

    Each branch runs with the tag `branch:<name>` and `{"kvfork_branch": <name>}` in its metadata,
    so `stream_mode="messages"` tells whose token it is. If a branch fails, the others are cancelled
    and its error is raised.

    Example:
        ```python
        ForkNode(llm, {"risks": "List the risks.", "dates": "List the dates."})
        # state["branches"] == {"risks": AIMessage(...), "dates": AIMessage(...)}
        ```

    Args:
        llm: The chat model, or whatever takes messages: with arguments bound, with a parser behind.
        branches: By name: text of a human's message, messages, or a function of the state that
            returns one of these.
        messages_key: The state's key of the shared messages.
        output_key: The state's key of the answers.

    Raises:
        InvalidRequestError: An argument is wrong; from `invoke`: the state has no such key, or a
            branch's function returned something else.
    """

    def __init__(
        self,
        llm: Runnable[Any, Any],
        branches: Mapping[str, BranchSpec],
        *,
        messages_key: str = "messages",
        output_key: str = "branches",
    ) -> None:
        _check(llm, branches)
        check_key("messages_key", messages_key)
        check_key("output_key", output_key)
        self.llm = llm
        self.branches = dict(branches)
        self.messages_key = messages_key
        self.output_key = output_key

    def invoke(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Run all branches, each in a thread of its own.

        Args:
            input: The graph's state.
            config: The run's configuration. Its `max_concurrency` does not hold back branches.
            **kwargs: For every call of `llm`.

        Returns:
            The update of the state.
        """
        return self._call_with_config(self._fork, input, config, **kwargs)

    async def ainvoke(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Run all branches as tasks of the running event loop."""
        return await self._acall_with_config(self._afork, input, config, **kwargs)

    def _fork(
        self,
        state: Any,
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> dict[str, Any]:
        prompts = self._prompts(state)
        # a pool of the default size would run the branches in waves
        pool_config = patch_config(config, max_concurrency=len(prompts))
        with get_executor_for_config(pool_config) as pool, cancel_scope() as scope:
            futures = {
                name: pool.submit(
                    self.llm.invoke,
                    messages,
                    _branch_config(config, run_manager, name),
                    **kwargs,
                )
                for name, messages in prompts.items()
            }
            wait(futures.values(), return_when=FIRST_EXCEPTION)
            failed = next((f for f in futures.values() if f.done() and f.exception()), None)
            if failed is not None:
                scope.cancel()
                failed.result()
            answers = {name: future.result() for name, future in futures.items()}
        return {self.output_key: answers}

    async def _afork(
        self,
        state: Any,
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> dict[str, Any]:
        prompts = self._prompts(state)
        tasks = {
            name: asyncio.ensure_future(
                self.llm.ainvoke(messages, _branch_config(config, run_manager, name), **kwargs)
            )
            for name, messages in prompts.items()
        }
        try:
            answers = await asyncio.gather(*tasks.values())
        except BaseException:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
            raise
        return {self.output_key: dict(zip(tasks, answers, strict=True))}

    def _prompts(self, state: Any) -> dict[str, list[BaseMessage]]:
        shared = _messages(state_value(state, self.messages_key))
        return {
            name: [*shared, *self._ending(name, spec, state)]
            for name, spec in self.branches.items()
        }

    def _ending(self, name: str, spec: BranchSpec, state: Any) -> list[BaseMessage]:
        ending = spec(state) if callable(spec) else spec
        if not _is_messages(ending):
            raise InvalidRequestError(
                f"branches[{name!r}] returned {ending!r}: it must return text or messages."
            )
        return _messages(ending)


def _messages(value: Messages) -> list[BaseMessage]:
    return [HumanMessage(value)] if isinstance(value, str) else convert_to_messages(value)


def _is_messages(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)) and bool(value)


def _check(llm: object, branches: object) -> None:
    require(isinstance(llm, Runnable), "llm", llm, "give a ChatKVFork")
    require(
        isinstance(branches, Mapping) and bool(branches),
        "branches",
        branches,
        "give a dict with one entry per branch, from its name to what it asks",
    )
    assert isinstance(branches, Mapping)
    for name, spec in branches.items():
        require(isinstance(name, str) and bool(name), "branches", {name: spec}, "name it with text")
        require(
            callable(spec) or _is_messages(spec),
            f"branches[{name!r}]",
            spec,
            "give text, a list of messages, or a function of the state that returns one of these",
        )


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
