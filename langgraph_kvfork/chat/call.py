"""One call of the chat model: what it asks for, as what the engine takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.messages import BaseMessage

from langgraph_kvfork.chat.messages import to_openai
from langgraph_kvfork.chat.tools import Tools
from langgraph_kvfork.checks import require
from langgraph_kvfork.engine.chat_template import RenderedPrompt
from langgraph_kvfork.engine.engine import Engine
from langgraph_kvfork.engine.request import Request
from langgraph_kvfork.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class Call:
    """What a call asks for.

    Attributes:
        request: How to go on after the prompt.
        timeout: Seconds after which to give up; None: never.
        tools: What the model may call, or must, and what the prompt tells of.
        json_schema: What the answer must match; None: nothing.
        reasoning: Whether a model that can think does.
        template_variables: What the chat template is given by name.

    Raises:
        InvalidRequestError: It asks for things that exclude each other.
    """

    request: Request
    timeout: float | None
    tools: Tools
    json_schema: dict[str, Any] | None
    reasoning: bool
    template_variables: dict[str, Any]

    def __post_init__(self) -> None:
        # in a call, not when they are bound: LangChain's own tests bind one tool in several forms
        _check_names("tools", self.tools.schemas)
        _check_names("prompt_tools", self.tools.told or ())
        asked = {
            "tools": bool(self.tools.schemas) and self.tools.choice != "none",
            "response_format": self.json_schema is not None,
            "grammar": self.request.grammar is not None,
        }
        together = [name for name, is_asked in asked.items() if is_asked]
        if len(together) > 1:
            raise InvalidRequestError(
                f"{' and '.join(together)} are not possible together, since an answer has one "
                "grammar: leave one out, or make the structured answer a tool of its own."
            )

    def options(self) -> dict[str, Any]:
        """Return what `Engine.render` has to know besides the messages."""
        return {**self._options(), **self.tools.options()}

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"enable_thinking": self.reasoning}
        if self.json_schema is not None:
            options["json_schema"] = self.json_schema
        if self.template_variables:
            options["chat_template_kwargs"] = self.template_variables
        return options

    def render(
        self, engine: Engine, messages: Sequence[BaseMessage], *, prefix: bool = False
    ) -> RenderedPrompt:
        """Render messages, and find the form of the answer.

        Args:
            engine: Whose template to use.
            messages: The messages.
            prefix: Leave out what makes the model answer.
        """
        converted = to_openai(messages)
        rendered = engine.render(converted, add_generation_prompt=not prefix, **self.options())
        answer = self.tools.answer_options()
        if answer is None or prefix:
            return rendered
        # the prompt tells of all tools, so that it begins like the others'; the grammar knows some
        form = engine.render(converted, **self._options(), **answer)
        return replace(rendered, answer_format=form.answer_format, grammar=form.grammar)

    def request_for(self, rendered: RenderedPrompt) -> Request:
        """Return how to go on after the rendered prompt."""
        return replace(
            self.request,
            stop=[*self.request.stop, *rendered.stop],
            answer_format=rendered.answer_format,
        )


def _check_names(argument: str, schemas: Sequence[dict[str, Any]]) -> None:
    names = [schema["function"]["name"] for schema in schemas]
    for i, name in enumerate(names):
        remedy = f"{argument}[{names.index(name)}] has this name already, so give it another"
        require(name not in names[:i], f"{argument}[{i}].name", name, remedy)
