"""Tools, and which of them the model must call: from LangChain's forms to the chat template's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from langgraph_kvfork._checks import require
from langgraph_kvfork._schema import check_schema
from langgraph_kvfork.errors import InvalidRequestError

AnyTool = dict[str, Any] | type | Callable[..., Any] | BaseTool
ToolChoice = str | bool | dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools of one call.

    Attributes:
        schemas: In OpenAI's form.
        choice: "auto", "none" or "required".
        forced: The one that must be called; None: any.
        parallel: Whether one answer may call several times; None: if the template knows it.
    """

    schemas: tuple[dict[str, Any], ...] = ()
    choice: str = "auto"
    forced: dict[str, Any] | None = None
    parallel: bool | None = None

    def options(self) -> dict[str, Any]:
        """Return what rendering takes, so that the prompt tells of all tools."""
        if not self.schemas:
            return {}
        options: dict[str, Any] = {"tools": list(self.schemas), "tool_choice": self.choice}
        if self.parallel is not None:
            options["parallel_tool_calls"] = self.parallel
        return options

    def forced_options(self) -> dict[str, Any]:
        """Return what rendering takes, so that the answer can only be the forced call.

        Asked for one tool by its name, the answer is one call, unless several are asked for.
        """
        return {
            "tools": [self.forced],
            "tool_choice": "required",
            "parallel_tool_calls": bool(self.parallel),
        }


def openai_tools(tools: Sequence[AnyTool], *, strict: bool | None = None) -> list[dict[str, Any]]:
    """Return tools in OpenAI's form.

    Raises:
        InvalidRequestError: One is nothing that LangChain can convert.
    """
    require(isinstance(tools, (list, tuple)), "tools", tools, "give a list of tools")
    converted: list[dict[str, Any]] = []
    for i, tool in enumerate(tools):
        try:
            schema = convert_to_openai_tool(tool, strict=strict)
            name = schema["function"]["name"]
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidRequestError(
                f"tools[{i}]={tool!r} is no tool: give a function, a BaseTool, a pydantic model, a "
                f"TypedDict or OpenAI's JSON. ({error})"
            ) from error
        where = f"tools[{i}]"
        require(isinstance(name, str) and bool(name), where, tool, "give it a name")
        description = schema["function"].get("description", "")
        require(isinstance(description, str), where, tool, "give a string as its description")
        check_schema(schema["function"].get("parameters") or {}, f"{where}'s parameters")
        converted.append(schema)
    return converted


def chosen_tools(
    tools: Sequence[AnyTool] | None,
    choice: ToolChoice = None,
    *,
    parallel: bool | None = None,
) -> Tools:
    """Return the tools of a call.

    Args:
        tools: In any form that LangChain takes.
        choice: None or "auto": the model decides; "none": no call; "any", "required" or True: some
            call; a tool's name, or OpenAI's dict with one: this one.
        parallel: Whether one answer may call several times; None: if the template knows it.

    Raises:
        InvalidRequestError: A tool or the choice is wrong.
    """
    require(
        parallel is None or isinstance(parallel, bool),
        "parallel_tool_calls",
        parallel,
        "give True, False or None",
    )
    schemas = openai_tools(() if tools is None else tools)
    if not schemas:
        require(
            choice in (None, False, "auto", "none"),
            "tool_choice",
            choice,
            "give tools to choose from, too",
        )
        return Tools()
    if choice in (None, False, "auto"):
        return Tools(tuple(schemas), "auto", None, parallel)
    if choice == "none":
        return Tools(tuple(schemas), "none", None, parallel)
    if choice in (True, "any", "required"):
        return Tools(tuple(schemas), "required", None, parallel)
    name = choice
    if isinstance(choice, Mapping):
        function = choice.get("function")
        name = (function if isinstance(function, Mapping) else choice).get("name")
    by_name = {schema["function"]["name"]: schema for schema in schemas}
    require(
        isinstance(name, str) and name in by_name,
        "tool_choice",
        choice,
        f"give auto, none, any or the name of a tool: {', '.join(by_name)}",
    )
    return Tools(tuple(schemas), "required", by_name[name], parallel)
