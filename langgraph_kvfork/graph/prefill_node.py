"""The node that computes a fan-out's shared context ahead of it.

It renders and joins the messages as the branches will, and generates nothing behind them. The
prefix stays in the cache, and later prompts fork it if they begin with the same tokens: so the
node needs the model with the arguments and the tools of the later calls.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, cast

from langchain_core.callbacks import (
    AsyncCallbackManagerForChainRun,
    CallbackManagerForChainRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.messages import BaseMessage
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import (
    Runnable,
    RunnableConfig,
    RunnableLambda,
)
from langchain_core.runnables.config import patch_config

from langgraph_kvfork.branches.events import PrefillProgress, Usage
from langgraph_kvfork.chat.ahead import ComputesAhead
from langgraph_kvfork.checks import require
from langgraph_kvfork.errors import KVForkError
from langgraph_kvfork.graph.branches import BranchMessages
from langgraph_kvfork.graph.function import NodeFunction, as_function
from langgraph_kvfork.graph.model import Found, as_one, find_model
from langgraph_kvfork.graph.node import check_key, refusing_unknown_arguments, state_value
from langgraph_kvfork.hooks.place import stream_item, stream_writer
from langgraph_kvfork.hooks.prompt_thread import in_prompt_thread
from langgraph_kvfork.order.join import join
from langgraph_kvfork.order.prompt import Messages, is_messages, to_messages

_log = logging.getLogger(__name__)

PREFILL_EVENT = "kvfork_prefill"
"""Name of the custom event by which callbacks get the numbers of the node."""


def _same(event: dict[str, Any]) -> dict[str, Any]:
    return event


async def _asame(event: dict[str, Any]) -> dict[str, Any]:
    return event


_prefilled = RunnableLambda(_same, _asame, name="prefilled")


@refusing_unknown_arguments
class PrefillNode(Runnable[Any, dict[str, Any]]):
    """Prefills the state's messages, so that whatever begins with them afterwards only forks.

    It changes nothing in the state. While it computes, it writes
    `{"node": <path>, "branch_name": <name>, "prefill": {"done": <tokens>, "total": <tokens>}}` to
    the graph's `custom` stream; outside of a branch, the name is "". (On Python 3.10 it cannot in
    async graphs: LangGraph's stream writer needs 3.11 there.) Callbacks, such as a `ForkReport`,
    get a custom event `kvfork_prefill` with what it computed; tracers, which take no custom events,
    get a run `prefilled` with it, unless it goes on at once.

    Example:
        ```python
        graph.add_node("read", PrefillNode(llm))
        graph.add_node("read", PrefillNode(llm, lambda state: [("human", state["letter"])]))
        ```

    Args:
        llm: What later calls have, as a `ForkNode` takes it: the chat model, with arguments bound
            to it, a prompt in front, or a parser behind.
        messages: What comes behind the state's messages, as a `ForkNode`'s branch has it: text of a
            human's message, messages, or a function of the state that returns one of these; or a
            runnable that does, such as a prompt. None: nothing.
        messages_key: The state's key of the messages.
        wait: Go on when it is done. False: go on at once, and it is computed beside what the graph
            does next (tools, retrieval, a human); calls that need it wait for it in the engine. It
            writes no progress then, and an error is logged, not raised: later calls have it too.
        save: Put what is computed into the model's store (`cache_dir`) before it is done, so that
            other processes have it from then on; it gets there anyway, some time after. What the
            disk refuses is a `StoreWarning`. Without a store, a run refuses it.

    Raises:
        InvalidRequestError: An argument is wrong; from `invoke`: the state has no such key, or the
            key or a function has something else than messages.
    """

    def __init__(
        self,
        llm: Runnable[Any, Any],
        messages: BranchMessages | Runnable[Any, Any] | None = None,
        *,
        messages_key: str = "messages",
        wait: bool = True,
        save: bool = False,
    ) -> None:
        self._asked = llm
        self.llm = _found(llm).model
        self.messages = messages
        self._added = _added(messages)
        self.wait = wait
        require(isinstance(wait, bool), "wait", wait, "pass True or False")
        self.save = save
        require(isinstance(save, bool), "save", save, "pass True or False")
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
        inner = patch_config(config, callbacks=run_manager.get_child())
        added = self._added
        if isinstance(added, NodeFunction):
            added = added(state, inner)
        messages = self._messages(state, added)
        found = _found(self._asked, config)
        if (prompt := as_one(found.before)) is not None:
            messages = prompt.invoke(messages, inner)
        if self.wait:
            event = _compute(found, messages, config, _progress_writer(config), save=self.save)
            _prefilled.invoke(event, config)
        else:
            if self.save:
                found.model._check_save(found.kwargs)
            _start(found, messages, config, save=self.save)
        return {}

    async def _aprefill(
        self, state: Any, run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig
    ) -> dict[str, Any]:
        inner = patch_config(config, callbacks=run_manager.get_child())
        added = self._added
        if isinstance(added, NodeFunction):
            added = await added.acall(state, inner)
        messages = self._messages(state, added)
        found = _found(self._asked, config)
        if (prompt := as_one(found.before)) is not None:
            messages = await prompt.ainvoke(messages, inner)
        if not self.wait:
            if self.save:
                await in_prompt_thread(lambda: found.model._check_save(found.kwargs))
            _start(found, messages, config, save=self.save)
            return {}
        progress = _progress_writer(config)
        kwargs = found.kwargs
        usage = await found.model._aprefill(messages, config, progress, kwargs, save=self.save)
        event = _event(found, usage)
        await adispatch_custom_event(PREFILL_EVENT, event, config=config)
        await _prefilled.ainvoke(event, config)
        return {}

    def _messages(self, state: Any, added: Any) -> Any:
        """Return the prompt, joined as a `ForkNode` joins it."""
        name = f"state[{self.messages_key!r}]"
        shared = to_messages(name, state_value(state, self.messages_key, "messages"))
        if self._added is None:
            return join(shared)
        if isinstance(added, PromptValue):
            added = added.to_messages()
        require(is_messages(added), "messages(state)", added, "return text or messages")
        return join(shared, to_messages("messages", added))


def _compute(
    found: Found[ComputesAhead],
    messages: Any,
    config: RunnableConfig,
    on_progress: Callable[[PrefillProgress], None] | None,
    *,
    save: bool,
) -> dict[str, Any]:
    usage = found.model._prefill(messages, config, on_progress, found.kwargs, save=save)
    event = _event(found, usage)
    dispatch_custom_event(PREFILL_EVENT, event, config=config)
    return event


def _start(
    found: Found[ComputesAhead], messages: Any, config: RunnableConfig, *, save: bool
) -> None:
    """Compute in a thread of its own: a task would end with its event loop."""

    def compute() -> None:
        try:
            _compute(found, messages, config, None, save=save)
        except KVForkError as error:
            _log.warning("What PrefillNode started ahead has failed: %s", error)

    # a daemon: at the end of the process, the engine is closed under it
    threading.Thread(target=compute, name="kvfork prefill", daemon=True).start()


def _event(found: Found[ComputesAhead], usage: Usage) -> dict[str, Any]:
    return {"model_name": found.model._model_name, **asdict(usage)}


def _found(llm: object, config: RunnableConfig | None = None) -> Found[ComputesAhead]:
    """Return the chat model in the runnable that the node was given."""
    found = find_model(llm, ComputesAhead, config)  # type: ignore[type-abstract]
    remedy = "pass a ChatKVFork, or a ChatKVForkServer: no other model can compute ahead"
    require(found is not None, "llm", llm, remedy)
    assert found is not None
    found.kwargs.pop("ls_structured_output_format", None)
    return found


def _added(messages: object) -> NodeFunction | list[BaseMessage] | None:
    """Return the messages behind the state's, or the function that makes them; None: neither."""
    if messages is None:
        return None
    if (function := as_function("messages", messages, "state")) is not None:
        return function
    remedy = "pass text, a list of messages, or a function of the state that returns one of these"
    require(is_messages(messages), "messages", messages, remedy)
    return to_messages("messages", cast("Messages", messages))


def _progress_writer(config: RunnableConfig) -> Callable[[PrefillProgress], None] | None:
    """Return the writer of the graph's stream; None outside of a graph."""
    write = stream_writer()
    if write is None:
        return None
    metadata = config.get("metadata", {})

    def report(progress: PrefillProgress) -> None:
        done = {"done": progress.done, "total": progress.total}
        write(stream_item(metadata, prefill=done))

    return report
