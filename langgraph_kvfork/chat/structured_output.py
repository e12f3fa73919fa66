"""Answers that match a schema: `with_structured_output` and `response_format`."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any, TypeAlias, Union

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough, ensure_config
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass

from langgraph_kvfork.chat.errors import StructuredOutputError
from langgraph_kvfork.chat.schema import check_schema
from langgraph_kvfork.checks import require
from langgraph_kvfork.errors import InvalidRequestError
from langgraph_kvfork.hooks.place import node_path

Schema: TypeAlias = Union[dict[str, Any], type]  # noqa: UP007
"""JSON schema, a TypedDict, or a pydantic model (of version 1 or 2)."""

_OF_JSON_SCHEMA = {"type", "properties", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"}
"""What tells a JSON schema without a title from other dicts."""

METHODS = ("json_schema", "function_calling", "json_mode")


def schema_of(response_format: object) -> dict[str, Any] | None:
    """Return the JSON schema that OpenAI's `response_format` asks for; None: free text.

    Raises:
        InvalidRequestError: It is something else.
    """
    if response_format is None:
        return None
    if isinstance(response_format, type):
        return json_schema(response_format)
    if isinstance(response_format, Mapping):
        kind = response_format.get("type")
        described = response_format.get("json_schema")
        schema = described.get("schema") if isinstance(described, Mapping) else None
        if kind == "text":
            return None
        if kind == "json_object":
            return {"type": "object"}
        if kind == "json_schema" and isinstance(schema, dict):
            check_schema(schema, "response_format's schema")
            return schema
    raise InvalidRequestError(
        f"response_format={response_format!r} is not possible: give "
        '{"type": "json_schema", "json_schema": {"name": ..., "schema": ...}}, '
        '{"type": "json_object"}, {"type": "text"}, or a class.'
    )


def json_schema(schema: Schema) -> dict[str, Any]:
    """Return a schema in any of LangChain's forms as JSON schema, with a title.

    Raises:
        InvalidRequestError: It is none.
    """
    # LangChain's conversion loses what a schema without top-level properties says
    is_json_schema = isinstance(schema, dict) and not schema.keys().isdisjoint(_OF_JSON_SCHEMA)
    try:
        converted: dict[str, Any] = (
            {"title": "answer", **schema}  # type: ignore[dict-item]
            if is_json_schema
            else dict(convert_to_json_schema(schema))
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRequestError(
            f"schema={schema!r} is not possible: give a pydantic model, a TypedDict or JSON schema."
            f" ({error})"
        ) from error
    require(isinstance(converted["title"], str), "schema", schema, "give a string as its title")
    check_schema(converted, "schema")
    return converted


def structured_output(
    llm: BaseChatModel,
    schema: Schema | None,
    *,
    method: str,
    include_raw: bool,
    strict: bool | None,
    **kwargs: Any,
) -> Runnable[LanguageModelInput, Any]:
    """Return a model whose answers are objects; see `ChatKVFork.with_structured_output`."""
    require(isinstance(include_raw, bool), "include_raw", include_raw, "give True or False")
    require(method in METHODS, "method", method, f"give one of {', '.join(METHODS)}")
    require(
        schema is not None or method == "json_mode",
        "schema",
        schema,
        "give a pydantic model, a TypedDict or JSON schema",
    )
    converted = {"type": "object"} if schema is None else json_schema(schema)
    described = {
        "kwargs": {"method": method, "strict": strict},
        "schema": schema or converted,
    }
    model: Any = schema if isinstance(schema, type) and is_basemodel_subclass(schema) else None
    title = converted.get("title", "JSON object")
    parser: Runnable[AIMessage, Any]
    if method == "function_calling":
        tool: Any = _tool(converted) if isinstance(schema, dict) else schema
        bound = llm.bind_tools(
            [tool],
            tool_choice="any",
            parallel_tool_calls=False,
            strict=strict,
            ls_structured_output_format=described,
            **kwargs,
        )
        if model:
            parser = _PydanticToolParser(title=title, tools=[model], first_tool_only=True)
        else:
            parser = _JsonToolParser(title=title, key_name=title, first_tool_only=True)
    else:
        kind: dict[str, Any] = {"type": "json_object"}
        if method == "json_schema":
            kind = {"type": "json_schema", "json_schema": {"schema": converted}}
        bound = llm.bind(response_format=kind, ls_structured_output_format=described, **kwargs)
        if model:
            parser = _PydanticParser(title=title, pydantic_object=model)
        else:
            parser = _JsonParser(title=title)
    return _with_raw(bound, parser) if include_raw else bound | parser


def _tool(schema: dict[str, Any]) -> dict[str, Any]:
    kind = schema.get("type", "object")
    require(kind == "object", "schema", schema, 'give one of type "object", or another method')
    parameters = {k: v for k, v in schema.items() if k not in {"title", "description"}}
    function = {"name": schema["title"], "parameters": parameters}
    if "description" in schema:
        function["description"] = schema["description"]
    return {"type": "function", "function": function}


def _with_raw(
    llm: Runnable[LanguageModelInput, AIMessage], parser: Runnable[AIMessage, Any]
) -> Runnable[LanguageModelInput, Any]:
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=llm) | parsed.with_fallbacks([failed], exception_key="parsing_error")


class _WholeAnswer:
    """A parser that refuses what was cut off; LangChain's own would repair and take it."""

    title: str

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        message = result[0].message if isinstance(result[0], ChatGeneration) else None
        if isinstance(message, AIMessage):
            _refuse_cut(message, self.title)
        return super().parse_result(result, partial=partial)  # type: ignore[misc]


class _JsonParser(_WholeAnswer, JsonOutputParser):
    title: str


class _PydanticParser(_WholeAnswer, PydanticOutputParser[Any]):
    title: str


class _JsonToolParser(_WholeAnswer, JsonOutputKeyToolsParser):
    title: str


class _PydanticToolParser(_WholeAnswer, PydanticToolsParser):
    title: str


def _refuse_cut(message: AIMessage, title: str) -> None:
    if message.response_metadata.get("finish_reason") != "length":
        return
    text = message.response_metadata.get("raw_text", message.text)
    usage = message.usage_metadata
    tokens = f" after {usage['output_tokens']:,} tokens" if usage else ""
    raise StructuredOutputError(
        f"The answer{_place()} was cut off{tokens}, before its {title} was whole: raise "
        "max_tokens, for all calls or, with llm.with_structured_output(..., max_tokens=...), for "
        "these alone; or n_ctx, if the context is full; or ask for less. It is, so far: "
        f"{text}",
        llm_output=text,
    )


def _place() -> str:
    """Return whose answer it is, for a sentence; outside of a graph and a `ForkNode`, nothing."""
    metadata = ensure_config().get("metadata", {})
    names = {"node": node_path(metadata), "branch": metadata.get("kvfork_branch")}
    told = ", ".join(f"{kind} {name!r}" for kind, name in names.items() if name)
    return f" of {told}" if told else ""
