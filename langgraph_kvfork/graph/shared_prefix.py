"""A middleware for LangChain's agents: agents that run in parallel begin with the same prompt."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AnyMessage, HumanMessage, SystemMessage
from langchain_core.tools import BaseTool, tool

from langgraph_kvfork.chat.ahead import ComputesAhead
from langgraph_kvfork.checks import require
from langgraph_kvfork.convert.tools import AnyTool, openai_tools
from langgraph_kvfork.errors import InvalidRequestError
from langgraph_kvfork.order.join import continued, join

try:
    from langchain.agents.middleware import AgentMiddleware
except ImportError as error:
    raise ImportError(
        "SharedPrefix needs the package langchain: `pip install 'langgraph-kvfork[agents]'`."
    ) from error

if TYPE_CHECKING:
    from langchain.agents.middleware import ModelRequest, ModelResponse


class SharedPrefix(AgentMiddleware):
    """Lets agents with different system prompts and tools share the conversation they are given.

    A chat template puts system prompt and tools first, so the prompts of such agents differ from
    the beginning on. With this middleware they all begin with one system prompt and one list of
    tools. An agent's own system prompt comes after the last human message, as a part of it, and a
    grammar lets the agent call no tools but its own. (On a server, nothing holds the model to them:
    if it calls another agent's, it is answered that there is no such tool. An agent without tools
    calls none.)

    Give the same one to all agents, as the last of their middleware, so that it sees what the
    others make of a request. Only what the model is sent changes, not the agent's state.

    Args:
        system_prompt: What all prompts begin with; None: no system prompt.
        tools: The tools of all agents, in the order of the prompts. None: those
            of the agents that have called so far. A call with new tools changes the prompts, so the
            agents share all of it from the second time on; with `tools`, from the first.

    Raises:
        InvalidRequestError: An argument is wrong; in a call: the agent has a tool that is not among
            `tools`, or that has the name of another agent's, or its model is
            neither a `ChatKVFork` nor a `ChatKVForkServer`.

    Example:
        ```python
        shared = SharedPrefix("Answer from the letter.", tools=[water, repair])
        gardener = create_agent(llm, [water], system_prompt="Garden.", middleware=[shared])
        plumber = create_agent(llm, [repair], system_prompt="Plumb.", middleware=[shared])
        ```
    """

    def __init__(
        self, system_prompt: str | None = None, *, tools: Sequence[AnyTool] | None = None
    ) -> None:
        super().__init__()
        require(
            system_prompt is None or isinstance(system_prompt, str),
            "system_prompt",
            system_prompt,
            "pass text, or None",
        )
        is_valid = tools is None or isinstance(tools, (list, tuple))
        require(is_valid, "tools", tools, "pass a list of tools, or None")
        self._system_message = None if system_prompt is None else SystemMessage(system_prompt)
        given = [_as_an_agent_has_it(i, each) for i, each in enumerate(tools or ())]
        self._collects = tools is None
        self._lock = threading.RLock()
        self._tools = tuple(openai_tools(given))

    def wrap_model_call(
        self, request: ModelRequest, handler: Callable[[ModelRequest], ModelResponse]
    ) -> ModelResponse:
        """Call the model with the shared messages in front."""
        return handler(self._shared(request))

    async def awrap_model_call(
        self, request: ModelRequest, handler: Callable[[ModelRequest], Awaitable[ModelResponse]]
    ) -> ModelResponse:
        """As `wrap_model_call`."""
        return await handler(self._shared(request))

    def _shared(self, request: ModelRequest) -> ModelRequest:
        model = request.model
        remedy = "pass the agent a ChatKVFork, or a ChatKVForkServer"
        require(isinstance(model, ComputesAhead), "model", model, remedy)
        tools = self._tools_with(openai_tools(request.tools))
        first = [] if self._system_message is None else [self._system_message]
        messages: list[Any] = join([*first, *request.messages])
        system_message = None
        if messages and isinstance(messages[0], SystemMessage):  # the state may begin with one too
            system_message = messages.pop(0)
        return request.override(
            system_message=system_message,
            messages=_with_role(messages, request.system_message),
            model_settings={**request.model_settings, "prompt_tools": list(tools)},
        )

    def _tools_with(self, own: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
        """Return the tools of the prompt, the agent's own among them."""
        with self._lock:
            new = [tool for tool in own if tool not in self._tools]
            names = {tool["function"]["name"] for tool in self._tools}
            for each in new:
                remedy = (
                    "pass SharedPrefix(tools=...) the tools of all its agents, and the same ones"
                )
                require(self._collects, "tool", each, remedy)
                remedy = "another agent's tool has this name and differs, so rename one of them"
                require(each["function"]["name"] not in names, "tool", each, remedy)
            self._tools = (*self._tools, *new)
            return self._tools


def _as_an_agent_has_it(i: int, given: AnyTool) -> AnyTool:
    """Make a function a tool as `create_agent` does, without the arguments that it injects."""
    if not callable(given) or isinstance(given, (BaseTool, type)):
        return given
    try:
        return tool(given)
    except ValueError as error:
        raise InvalidRequestError(
            f"tools[{i}]={given!r} is no tool of an agent: {error}"
        ) from error


def _with_role(messages: list[AnyMessage], role: SystemMessage | None) -> list[AnyMessage]:
    """Return messages with an agent's role behind the last human one's text."""
    if role is None or not role.text:
        return messages
    for i in reversed(range(len(messages))):
        if isinstance(messages[i], HumanMessage):
            message: Any = continued(messages[i], role.text)
            return [*messages[:i], message, *messages[i + 1 :]]
    return [*messages, HumanMessage(role.text)]
