"""Tools, and which of them the model must call: from LangChain's forms to the chat template's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic.errors import PydanticUserError

from langgraph_kvfork.checks import require, shown
from langgraph_kvfork.convert.tool_choice import ToolChoice, read_choice
from langgraph_kvfork.convert.type_schema import recursive_parameters
from langgraph_kvfork.errors import InvalidRequestError
from langgraph_kvfork.schema.limits import check_depth, check_schema

AnyTool = dict[str, Any] | type | Callable[..., Any] | BaseTool


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools of one call.

    Attributes:
        schemas: Those that can be called, in OpenAI's form.
        choice: "auto", "none" or "required".
        forced: The one that must be called; None: any.
        parallel: Whether one answer may call several times; None: if the template knows it.
        in_prompt: Those in the prompt; None: those that can be called.
    """

    schemas: tuple[dict[str, Any], ...] = ()
    choice: str = "auto"
    forced: dict[str, Any] | None = None
    parallel: bool | None = None
    in_prompt: tuple[dict[str, Any], ...] | None = None

    def prompt_options(self) -> dict[str, Any]:
        """Return the options of rendering with which the prompt has its tools."""
        return _options(self.schemas if self.in_prompt is None else self.in_prompt, "none", None)

    def answer_options(self, schemas: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the arguments by which rendering finds the answer's form.

        Asked for one tool by its name, the answer is one call, unless several are asked for.

        Args:
            schemas: What llama.cpp is given for the tools that can be called.
        """
        if self.forced is not None:
            return _options(schemas, "required", bool(self.parallel))
        return _options(schemas, self.choice, self.parallel)

    @property
    def callable(self) -> tuple[dict[str, Any], ...]:
        """The tools that can be called."""
        return self.schemas if self.forced is None else (self.forced,)


def _options(
    schemas: Sequence[dict[str, Any]], choice: str, parallel: bool | None
) -> dict[str, Any]:
    if not schemas:
        return {}
    options: dict[str, Any] = {"tools": list(schemas), "tool_choice": choice}
    if parallel is not None:
        options["parallel_tool_calls"] = parallel
    return options


def openai_tools(
    tools: Sequence[AnyTool], *, strict: bool | None = None, name: str = "tools"
) -> list[dict[str, Any]]:
    """Return tools in OpenAI's form.

    Args:
        tools: In any form that LangChain takes.
        strict: As LangChain converts them.
        name: Of the argument that they are, for messages.

    Raises:
        InvalidRequestError: One is nothing that LangChain can convert.
    """
    require(isinstance(tools, (list, tuple)), name, tools, "pass a list of tools")
    converted: list[dict[str, Any]] = []
    for i, tool in enumerate(tools):
        if isinstance(tool, dict):
            check_depth(tool, f"{name}[{i}]")
        try:
            schema = convert_to_openai_tool(tool, strict=strict)
            called = schema["function"]["name"]
            own = recursive_parameters(tool)
        except (KeyError, TypeError, ValueError, RecursionError, PydanticUserError) as error:
            raise InvalidRequestError(
                f"{name}[{i}]={shown(tool)} is no tool: pass a function, a BaseTool, a pydantic "
                f"model, a TypedDict or OpenAI's JSON. ({error})"
            ) from error
        where = f"{name}[{i}]"
        require(isinstance(called, str) and bool(called), where, tool, "give it a name")
        description = schema["function"].get("description", "")
        require(isinstance(description, str), where, tool, "pass a string as its description")
        if own:
            schema["function"]["parameters"] = own
        parameters = schema["function"].get("parameters")
        parameters = {} if parameters is None else parameters
        require(isinstance(parameters, dict), f"{where}.parameters", parameters, "pass JSON schema")
        check_schema(parameters, f"{where}'s parameters")
        converted.append(schema)
    return converted


def chosen_tools(
    tools: Sequence[AnyTool] | None,
    choice: ToolChoice = None,
    *,
    parallel: bool | None = None,
    prompt_tools: Sequence[AnyTool] | None = None,
) -> Tools:
    """Return the tools of a call.

    Args:
        tools: Those that can be called, in any form that LangChain takes.
        choice: None or "auto": the model decides; "none": no call; "any", "required" or True: some
            call; a tool's name: this one; or a dict that a provider has for one of these.
        parallel: Whether one answer may call several times; None: if the template knows it.
        prompt_tools: Those in the prompt; None: those that can be called.

    Raises:
        InvalidRequestError: A tool or the choice is wrong.
    """
    require(
        parallel is None or isinstance(parallel, bool),
        "parallel_tool_calls",
        parallel,
        "pass True, False or None",
    )
    schemas = tuple(openai_tools(() if tools is None else tools))
    in_prompt = None
    if prompt_tools is not None:
        in_prompt = tuple(openai_tools(prompt_tools, name="prompt_tools"))
    by_name = {schema["function"]["name"]: schema for schema in schemas}
    if not schemas:
        kind = choice.get("type") if isinstance(choice, dict) else choice
        is_valid = kind in (False, "auto", "none") or choice is None
        require(is_valid, "tool_choice", choice, "pass tools to choose from, too")
        return Tools(in_prompt=in_prompt)
    read = read_choice(choice, list(by_name))
    parallel = read.parallel if parallel is None else parallel
    if read.is_one:
        assert read.names is not None
        return Tools(schemas, "required", by_name[read.names[0]], parallel, in_prompt)
    if read.names is not None:
        # the prompt still has all tools, as other branches' prompts do
        in_prompt = schemas if in_prompt is None else in_prompt
        schemas = tuple(by_name[name] for name in dict.fromkeys(read.names))
    return Tools(schemas, read.kind, None, parallel, in_prompt)
