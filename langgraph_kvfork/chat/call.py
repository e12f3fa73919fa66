"""One call of the chat model: its request, tools and schema, checked and ready to be rendered.

A prompt may be rendered twice: once for its text, with all tools of `prompt_tools`, and once for
the form of the answer, with the tools that can be called and with schemas as llama.cpp can hold
them. So calls with different tools have one prompt, and each has the grammar of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from langchain_core.messages import BaseMessage

from langgraph_kvfork.branches.request import Request
from langgraph_kvfork.chat.whole_answer import check_answer
from langgraph_kvfork.checks import require
from langgraph_kvfork.convert.messages import to_openai
from langgraph_kvfork.convert.tools import Tools
from langgraph_kvfork.engine.chat_template import RenderedPrompt
from langgraph_kvfork.engine.ending import python_in_native_code
from langgraph_kvfork.engine.engine import Engine
from langgraph_kvfork.errors import InvalidRequestError
from langgraph_kvfork.order.thoughts import watch_thoughts
from langgraph_kvfork.schema.check import schema_check
from langgraph_kvfork.schema.held import held_answer, held_tools, joined_rules


@dataclass(frozen=True, slots=True)
class Call:
    """What a call asks for.

    Attributes:
        request: How to go on after the prompt.
        timeout: Seconds after which to give up; None: never.
        tools: The tools that the model may call, or must, and those in the prompt.
        json_schema: What the answer must match; None: nothing.
        checked_later: Whether the caller checks that, so that it gets any answer.
        reasoning: Whether a model that can think does.
        template_variables: What the chat template is given by name.
        special_tokens_in_text: Whether names of special tokens in messages are these tokens.

    Raises:
        InvalidRequestError: It asks for things that exclude each other.
    """

    request: Request
    timeout: float | None
    tools: Tools
    json_schema: dict[str, Any] | None
    checked_later: bool
    reasoning: bool
    template_variables: dict[str, Any]
    special_tokens_in_text: bool

    def __post_init__(self) -> None:
        # in a call, not when they are bound: LangChain's own tests bind one tool in several forms
        _check_names("tools", self.tools.schemas)
        _check_names("prompt_tools", self.tools.in_prompt or ())
        asked = {
            "tools": bool(self.tools.schemas) and self.tools.choice != "none",
            "response_format": self.json_schema is not None,
            "grammar": self.request.grammar is not None,
        }
        together = [name for name, is_asked in asked.items() if is_asked]
        if asked["grammar"] and len(together) > 1:
            raise InvalidRequestError(
                f"{' and '.join(together)} are not possible together, since an answer has one "
                "grammar: leave one out."
            )

    def options(self) -> dict[str, Any]:
        """Return what `Engine.render` has to know besides the messages, to render a prompt."""
        options = self._options()
        if self.json_schema is not None:  # some templates show it
            named = {"response_format": self.json_schema, **self.template_variables}
            options["chat_template_kwargs"] = named
        return {**options, **self.tools.prompt_options()}

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "enable_thinking": self.reasoning,
            "special_tokens_in_text": self.special_tokens_in_text,
        }
        if self.template_variables:
            options["chat_template_kwargs"] = self.template_variables
        return options

    def _form_options(self) -> dict[str, Any] | None:
        """Return what `Engine.render` has to know to find the answer's form; None: it has none."""
        has_tools = bool(self.tools.schemas) and self.tools.choice != "none"
        if self.json_schema is None and not has_tools:
            return None
        options = self._options()
        held = []
        if self.json_schema is not None:
            held.append(held_answer(self.json_schema))
            options["json_schema"] = held[0].schemas[0]
        if has_tools:
            held.append(held_tools(list(self.tools.callable)))
            options |= self.tools.answer_options(held[-1].schemas)
        if rules := joined_rules(held):
            options["rules"] = rules
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
        return self._render(engine, to_openai(messages), prefix=prefix)

    def _render(
        self, engine: Engine, converted: Sequence[Mapping[str, Any]], *, prefix: bool = False
    ) -> RenderedPrompt:
        form = None if prefix else self._form_options()
        if form is not None and self._prompt_has_what_can_be_called() and "rules" not in form:
            return engine.render(converted, **form)
        rendered = engine.render(converted, add_generation_prompt=not prefix, **self.options())
        if form is None:
            return rendered
        # the prompt has all tools and as they are, so that it begins like others'; the grammar has
        # those that can be called, as llama.cpp can hold them
        found = engine.render(converted, **form)
        return replace(rendered, answer_format=found.answer_format, grammar=found.grammar)

    def watch_thoughts(self, engine: Engine, messages: Sequence[BaseMessage], prompt: str) -> None:
        """Warn once if the template drops earlier thoughts, and much is prefilled again for that.

        Args:
            engine: The engine that computes it.
            messages: The prompt, as messages.
            prompt: The prompt, as `render` returned it.
        """

        def render(
            converted: Sequence[Mapping[str, Any]],
            *,
            variables: Mapping[str, Any] | None = None,
            reasoning: bool = True,
        ) -> str:
            named = {**self.template_variables, **(variables or {})}
            changed = replace(self, template_variables=named, reasoning=reasoning)
            return changed._render(engine, converted).text

        if self.reasoning and self.request.share_prefix:
            has_thoughts = any(m.additional_kwargs.get("reasoning_content") for m in messages)
            converted = to_openai(messages) if has_thoughts else ()
            watch_thoughts(engine, converted, prompt, render)

    def _prompt_has_what_can_be_called(self) -> bool:
        return self.tools.in_prompt is None and self.tools.forced is None

    def answer_check(self) -> Callable[[BaseMessage], None] | None:
        """Return a function that refuses answers that do not match; None: any answer will do."""
        if self.json_schema is None or self.checked_later:
            return None
        title = str(self.json_schema.get("title", "schema"))
        check = schema_check(self.json_schema, "response_format's schema")
        return partial(check_answer, title=title, check=check)

    def request_for(self, rendered: RenderedPrompt) -> Request:
        """Return how to go on after the rendered prompt."""
        with python_in_native_code:
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


def stop_strings(stop: object) -> Sequence[str]:
    """Return a call's stop strings, of which there may be none.

    Raises:
        InvalidRequestError: It is no list; a string would fall apart into its characters.
    """
    if stop is None:
        return ()
    require(isinstance(stop, (list, tuple)), "stop", stop, "pass a list of strings")
    assert isinstance(stop, (list, tuple))
    return stop
