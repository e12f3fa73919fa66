"""The node that computes a fan-out's shared context ahead of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForChainRun,
    CallbackManagerForChainRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda

from langgraph_kvfork.chat.model import ChatKVFork
from langgraph_kvfork.checks import require
from langgraph_kvfork.engine.events import PrefillProgress, Usage
from langgraph_kvfork.errors import InvalidRequestError, KVForkError
from langgraph_kvfork.graph.node import (
    check_key,
    refusing_unknown_arguments,
    state_value,
    underlying_model,
)
from langgraph_kvfork.hooks.place import stream_writer

_log = logging.getLogger(__name__)

PREFILL_EVENT = "kvfork_prefill"
"""Name of the custom event that tells callbacks what the node computed."""


def _same(event: dict[str, Any]) -> dict[str, Any]:
    return event


async def _asame(event: dict[str, Any]) -> dict[str, Any]:
    return event


_prefilled = RunnableLambda(_same, _asame, name="prefilled")


@refusing_unknown_arguments
class PrefillNode(Runnable[Any, dict[str, Any]]):
    """Prefills the state's messages, so that whatever begins with them afterwards only forks.

    It changes nothing in the state. While it computes, it writes
    `{"prefill": {"done": <tokens>, "total": <tokens>}}` to the graph's `custom` stream. (On Python
    3.10 it cannot in async graphs: LangGraph's stream writer needs 3.11 there.) Callbacks, such as
    a `ForkReport`, get a custom event `kvfork_prefill` with what it computed; tracers, which take
    no custom events, get a run `prefilled` with it, unless it goes on at once.

    Example:
        ```python
        graph.add_node("read", PrefillNode(llm))
        ```

    Args:
        llm: The chat model; with arguments bound to it, or a parser behind, if later calls have it.
        messages_key: The state's key of the messages.
        wait: Go on when it is done. False: go on at once, and it is computed beside what the graph
            does next (tools, retrieval, a human); calls that need it wait for it in the engine. It
            writes no progress then, and an error is logged, not raised: later calls have it too.

    Raises:
        InvalidRequestError: An argument is wrong; from `invoke`: the state has no such key.
    """

    def __init__(
        self,
        llm: Runnable[Any, Any],
        *,
        messages_key: str = "messages",
        wait: bool = True,
    ) -> None:
        self.llm, self._call = _chat_model(llm)
        self.wait = wait
        require(isinstance(wait, bool), "wait", wait, "give True or False")
        self.messages_key = messages_key
        check_key("messages_key", messages_key)

    def invoke(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Prefill `input`'s messages.

        Args:
            input: The graph's state.
            config: The run's configuration.
            **kwargs: None.

        Returns:
            An empty update of the state.
        """
        return self._call_with_config(self._prefill, input, config, **kwargs)

    async def ainvoke(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """As `invoke`, without blocking the event loop."""
        return await self._acall_with_config(self._aprefill, input, config, **kwargs)

    def _prefill(
        self, state: Any, run_manager: CallbackManagerForChainRun, config: RunnableConfig
    ) -> dict[str, Any]:
        messages = state_value(state, self.messages_key, "messages")
        if self.wait:
            event = self._compute(messages, config, _progress_writer())
            _prefilled.invoke(event, config)
        else:
            self._start(messages, config)
        return {}

    async def _aprefill(
        self, state: Any, run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig
    ) -> dict[str, Any]:
        messages = state_value(state, self.messages_key, "messages")
        if not self.wait:
            self._start(messages, config)
            return {}
        usage = await self.llm._aprefill(messages, config, _progress_writer(), self._call)
        event = self._event(usage)
        await adispatch_custom_event(PREFILL_EVENT, event, config=config)
        await _prefilled.ainvoke(event, config)
        return {}

    def _compute(
        self,
        messages: Any,
        config: RunnableConfig,
        on_progress: Callable[[PrefillProgress], None] | None,
    ) -> dict[str, Any]:
        usage = self.llm._prefill(messages, config, on_progress, self._call)
        event = self._event(usage)
        dispatch_custom_event(PREFILL_EVENT, event, config=config)
        return event

    def _start(self, messages: Any, config: RunnableConfig) -> None:
        """Compute in a thread of its own: a task would end with its event loop."""

        def compute() -> None:
            try:
                self._compute(messages, config, None)
            except KVForkError as error:
                _log.warning("What PrefillNode started ahead has failed: %s", error)

        # a daemon: at the end of the process, the engine is closed under it
        threading.Thread(target=compute, name="kvfork prefill", daemon=True).start()

    def _event(self, usage: Usage) -> dict[str, Any]:
        return {"model_name": self.llm._model_name, **asdict(usage)}


def _chat_model(llm: object) -> tuple[ChatKVFork, dict[str, Any]]:
    """Return the chat model, and what is bound to it for every call."""
    if isinstance(llm, Runnable):
        model, kwargs = underlying_model(llm)
        if isinstance(model, ChatKVFork):
            kwargs.pop("ls_structured_output_format", None)
            return model, kwargs
    raise InvalidRequestError(f"llm={llm!r} is not possible: give a ChatKVFork.")


def _progress_writer() -> Callable[[PrefillProgress], None] | None:
    """Return what writes to the graph's stream; None outside of a graph."""
    write = stream_writer()
    if write is None:
        return None
    return lambda progress: write({"prefill": {"done": progress.done, "total": progress.total}})
