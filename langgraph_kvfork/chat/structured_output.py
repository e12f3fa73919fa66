"""Answers that match a schema: `with_structured_output` and `response_format`.

A schema in any of LangChain's forms becomes JSON schema. It is bound to the model, as a
`response_format` or as a tool, and a grammar holds what it can of it. The parser behind the model
reads the whole answer strictly and checks it: it returns an object that matches, or raises
`StructuredOutputError`. LangChain's own parsers repair answers that were cut off; these do not.

A plain `response_format`, without the parser, is checked by the call itself (`whole_answer.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias, Union

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel
from pydantic.errors import PydanticUserError

from langgraph_kvfork.chat.read_beside_raw import ReadBesideRaw
from langgraph_kvfork.chat.whole_answer import no_match, not_whole, text_of
from langgraph_kvfork.checks import require, shown
from langgraph_kvfork.convert.type_schema import model_schema
from langgraph_kvfork.errors import InvalidRequestError
from langgraph_kvfork.schema.check import Check, parse_json, schema_check
from langgraph_kvfork.schema.held import NOT_PLAIN, held_answer, warn_of_dropped
from langgraph_kvfork.schema.limits import check_depth, check_schema

Schema: TypeAlias = Union[dict[str, Any], type]  # noqa: UP007
"""JSON schema, a TypedDict, or a pydantic model (of version 1 or 2)."""

_OF_FUNCTION = {"parameters", "input_schema", "function"}
"""Keys by which a function's description, as providers have it, differs from a JSON schema."""

_OF_JSON_SCHEMA = NOT_PLAIN | {
    "$ref",
    "$schema",
    "additionalProperties",
    "anyOf",
    "const",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "else",
    "enum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "minItems",
    "minLength",
    "properties",
    "required",
    "then",
    "type",
}
"""Keywords by which a JSON schema without a title differs from other dicts."""

CHECKED_LATER = "kvfork_checked_later"
"""A key of `response_format`: the caller checks the answer itself, and gets it as it is."""

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
        if schema is True:
            schema = {}
        if kind == "json_schema" and isinstance(schema, dict):
            check_schema(schema, "response_format's schema")
            if not is_checked_later(response_format):  # else the warning came when it was bound
                warn_of_dropped(held_answer(schema), "response_format's schema")
            return schema
    raise InvalidRequestError(
        f"response_format={shown(response_format)} is not possible: pass "
        '{"type": "json_schema", "json_schema": {"name": ..., "schema": ...}}, '
        '{"type": "json_object"}, {"type": "text"}, or a class.'
    )


def is_checked_later(response_format: object) -> bool:
    """Return whether the caller checks the answer itself."""
    return isinstance(response_format, Mapping) and bool(response_format.get(CHECKED_LATER))


def json_schema(schema: Schema) -> dict[str, Any]:
    """Return a schema in any of LangChain's forms as JSON schema, with a title.

    Raises:
        InvalidRequestError: It is no schema.
    """
    try:
        if isinstance(schema, dict):
            check_depth(schema, "schema")
        converted = _converted(schema)
    except (KeyError, TypeError, ValueError, RecursionError, PydanticUserError) as error:
        if isinstance(error, InvalidRequestError):
            raise
        raise InvalidRequestError(
            f"schema={shown(schema)} is not possible: pass a pydantic model, a TypedDict or JSON "
            f"schema. ({error})"
        ) from error
    require(isinstance(converted["title"], str), "schema", schema, "pass a string as its title")
    check_schema(converted, "schema")
    return converted


def _converted(schema: Any) -> dict[str, Any]:
    if schema is True:
        return {"title": "answer"}
    # LangChain's conversion loses what a schema without top-level properties says, and what refers
    # to itself
    if (
        isinstance(schema, dict)
        and schema.keys() & _OF_JSON_SCHEMA
        and not (schema.keys() & _OF_FUNCTION)
    ):
        return {"title": "answer", **schema}
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return model_schema(schema)
    return dict(convert_to_json_schema(schema))


def structured_output(
    llm: Any,
    schema: Schema | None,
    *,
    method: str,
    include_raw: bool,
    strict: bool | None,
    **kwargs: Any,
) -> Runnable[LanguageModelInput, Any]:
    """Return a model whose answers are objects; see `ChatKVFork.with_structured_output`."""
    require(isinstance(include_raw, bool), "include_raw", include_raw, "pass True or False")
    require(method in METHODS, "method", method, f"pass one of {', '.join(METHODS)}")
    require(
        schema is not None or method == "json_mode",
        "schema",
        schema,
        "pass a pydantic model, a TypedDict or JSON schema",
    )
    converted = {"type": "object"} if schema is None else json_schema(schema)
    described = {
        "kwargs": {"method": method, "strict": strict},
        "schema": schema or converted,
    }
    model: Any = schema if isinstance(schema, type) and is_basemodel_subclass(schema) else None
    answer: dict[str, Any] = {
        "title": converted.get("title", "JSON object"),
        "check": schema_check(converted),
    }
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
            parser = _PydanticToolParser(tools=[model], first_tool_only=True, model=model, **answer)
        else:
            name = converted["title"]
            parser = _JsonToolParser(key_name=name, first_tool_only=True, **answer)
    else:
        kind: dict[str, Any] = {"type": "json_object"}
        if method == "json_schema":
            warn_of_dropped(held_answer(converted), converted["title"])
            kind = {"type": "json_schema", "json_schema": {"schema": converted}}
        bound = llm.bind(
            response_format={**kind, CHECKED_LATER: True},
            ls_structured_output_format=described,
            **kwargs,
        )
        if model:
            parser = _PydanticParser(pydantic_object=model, model=model, **answer)
        else:
            parser = _JsonParser(**answer)
    chain: Runnable[LanguageModelInput, Any] = bound | (
        ReadBesideRaw(parser) if include_raw else parser
    )
    return chain


def _tool(schema: dict[str, Any]) -> dict[str, Any]:
    kind = schema.get("type", "object")
    require(kind == "object", "schema", schema, 'pass one of type "object", or another method')
    parameters = {k: v for k, v in schema.items() if k not in {"title", "description"}}
    function = {"name": schema["title"], "parameters": parameters}
    if "description" in schema:
        function["description"] = schema["description"]
    return {"type": "function", "function": function}


def _instance(model: Any, value: Any) -> Any:
    """Return an instance of a pydantic model from what JSON held."""
    if issubclass(model, BaseModel):
        # as JSON: a strict model takes dates and numbers from strings only there
        return model.model_validate_json(json.dumps(value))
    return model.parse_obj(value)


class _WholeAnswer:
    """A parser that repairs nothing, and checks each answer; LangChain's own would take any."""

    title: str
    check: Check
    model: Any  # None: the value itself is wanted
    reads_calls: ClassVar[bool] = False

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        message = result[0].message if isinstance(result[0], ChatGeneration) else None
        metadata = message.response_metadata if message else {}
        if message is None or (partial and "finish_reason" not in metadata):
            return super().parse_result(result, partial=partial)  # type: ignore[misc]
        return self._checked(message)

    def _checked(self, message: BaseMessage) -> Any:
        """Return what an answer that has ended says.

        Raises:
            StructuredOutputError: It is not whole, or does not match its schema.
        """
        text = text_of(message)
        if not self.reads_calls and getattr(message, "tool_calls", None) and not message.text:
            return None  # the model had tools, too, and has called some instead
        try:
            value = self._value(message)
        except ValueError as error:
            raise not_whole(message, self.title, str(error)) from error
        if mismatch := self.check(value):
            raise no_match(text, self.title, mismatch)
        if self.model is None:
            return value
        try:
            return _instance(self.model, value)
        except ValueError as error:  # of a validator of its own; pydantic's errors derive from it
            raise no_match(text, self.title, str(error)) from error

    def _value(self, message: BaseMessage) -> Any:
        return parse_json(str(message.text))


class _WholeCall(_WholeAnswer):
    reads_calls = True

    def _value(self, message: BaseMessage) -> Any:
        calls = getattr(message, "tool_calls", None)
        if not calls:
            raise ValueError("there is no call that is whole")
        return calls[0]["args"]


class _JsonParser(_WholeAnswer, JsonOutputParser):
    title: str
    check: Check
    model: Any = None


class _PydanticParser(_WholeAnswer, PydanticOutputParser[Any]):
    title: str
    check: Check
    model: Any = None


class _JsonToolParser(_WholeCall, JsonOutputKeyToolsParser):
    title: str
    check: Check
    model: Any = None


class _PydanticToolParser(_WholeCall, PydanticToolsParser):
    title: str
    check: Check
    model: Any = None
