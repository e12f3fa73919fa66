"""Schemas that are nested, or refer to one another, without end: refused at once, in a sentence."""

import resource
from typing import Optional, TypedDict

import pytest
from langchain_core.tools import StructuredTool
from pydantic import BaseModel, create_model

from langgraph_kvfork import ChatKVFork
from langgraph_kvfork.chat.structured_output import schema_of
from langgraph_kvfork.errors import InvalidRequestError
from langgraph_kvfork.schema.check import schema_check
from langgraph_kvfork.schema.held import held_answer

DEEP = 10_000
NESTS = {
    "properties": lambda schema: {"type": "object", "properties": {"a": schema}},
    "items": lambda schema: {"type": "array", "items": schema},
    "prefixItems": lambda schema: {"prefixItems": [schema]},
    "anyOf": lambda schema: {"anyOf": [schema, {"type": "null"}]},
    "allOf": lambda schema: {"allOf": [schema]},
    "not": lambda schema: {"not": schema},
    "if": lambda schema: {"if": schema},
    "additionalProperties": lambda schema: {"additionalProperties": schema},
    "const": lambda schema: {"const": [schema]},
    "$defs": lambda schema: {"$defs": {"a": schema}},
}
LINKS = {
    "references alone": lambda below: below,
    "properties": lambda below: {"type": "object", "properties": {"a": below}},
    "optional properties": lambda below: {"properties": {"a": {"anyOf": [below, {}]}}},
    "items": lambda below: {"type": "array", "items": below},
    "a property called default": lambda below: {"properties": {"default": below}},
}


@pytest.fixture(scope="module")
def llm():
    return ChatKVFork()


@pytest.fixture(autouse=True)
def hardly_any_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024


def nested(nest, levels=DEEP):
    schema = {"type": "integer"}
    for _ in range(levels):
        schema = nest(schema)
    return {"title": "deep", **schema}


def linked(link, levels=DEEP, *, backwards=False):
    """Return parts of which each refers to the next one; or which are listed the last one first."""
    parts = {f"p{i}": link({"$ref": f"#/$defs/p{i + 1}"}) for i in range(levels)}
    parts[f"p{levels}"] = {"type": "integer"}
    names = [f"p{i}" for i in range(0, levels, 100)]
    order = reversed(names) if backwards else names
    return {
        "title": "deep",
        "type": "object",
        "properties": {name: {"$ref": f"#/$defs/{name}"} for name in order},
        "$defs": dict(reversed(parts.items())) if backwards else parts,
    }


def function(parameters):
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


def ways(llm, schema):
    """Return every way in for a schema."""
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    tool = {"name": "f", "description": "", "args_schema": schema, "func": lambda **_: None}
    of_anthropic = {"name": "f", "description": "", "input_schema": schema}
    return {
        "json_schema": lambda: llm.with_structured_output(schema),
        "function_calling": lambda: llm.with_structured_output(
            {"type": "object", **schema}, method="function_calling"
        ),
        "json_mode": lambda: llm.with_structured_output(schema, method="json_mode"),
        "raw": lambda: llm.with_structured_output(schema, include_raw=True),
        "bound": lambda: llm.bind(temperature=0).with_structured_output(schema),
        "response_format": lambda: llm._call(None, {"response_format": response_format}),
        "bind_tools": lambda: llm.bind_tools([function(schema)]),
        "tools": lambda: llm._call(None, {"tools": [function(schema)]}),
        "prompt_tools": lambda: llm._call(None, {"prompt_tools": [function(schema)]}),
        "a tool of Anthropic's": lambda: llm.bind_tools([of_anthropic]),
        "a schema as a tool": lambda: llm.bind_tools([schema]),
        "a StructuredTool": lambda: llm.bind_tools([StructuredTool(**tool)]),
    }


WAYS = list(ways(None, {}))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("nest", NESTS)
def test_what_is_nested_is_refused(llm, nest, way):
    with pytest.raises(InvalidRequestError) as refused:
        ways(llm, nested(NESTS[nest]))[way]()
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("way", [way for way in WAYS if way != "a schema as a tool"])
@pytest.mark.parametrize("link", LINKS)
def test_a_chain_of_references_is_refused(llm, link, way):
    for backwards in (False, True):
        with pytest.raises(InvalidRequestError) as refused:
            ways(llm, linked(LINKS[link], backwards=backwards))[way]()
        assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("link", LINKS)
def test_a_chain_that_people_write_is_taken(llm, link):
    schema = linked(LINKS[link], 60)
    llm.with_structured_output(schema)
    assert schema_check(schema)({}) is None


def test_a_circle_is_no_chain(llm):
    parts = {
        f"p{i}": {
            "type": "object",
            "properties": {f"to{j}": {"$ref": f"#/$defs/p{j}"} for j in range(40)},
        }
        for i in range(40)
    }
    schema = {"title": "circle", "$ref": "#/$defs/p0", "$defs": parts}
    assert llm.with_structured_output(schema)
    assert schema_check(schema)({"to3": {"to7": 3}}) is not None


@pytest.mark.parametrize("word", ["allOf", "anyOf", "oneOf"])
def test_parts_that_double_at_each_step_are_refused(llm, word):
    def doubling(levels):
        parts = {f"p{i}": {word: [{"$ref": f"#/$defs/p{i + 1}"}] * 2} for i in range(levels)}
        parts[f"p{levels}"] = {"type": "integer", "minimum": 3}
        return {"title": "a", "type": "object", "properties": {"a": {"$ref": "#/$defs/p0"}}} | {
            "$defs": parts
        }

    with pytest.raises(InvalidRequestError, match="checked against more than 10,000 parts"):
        llm.with_structured_output(doubling(40))
    # what can be checked and is too much for a grammar is left to the check
    assert "unions of unions" in held_answer(doubling(11)).dropped


def test_properties_do_not_multiply(llm):
    parts = {
        f"p{i}": {
            "type": "object",
            "properties": {name: {"$ref": f"#/$defs/p{i + 1}"} for name in "ab"},
        }
        for i in range(40)
    }
    parts["p40"] = {"type": "integer", "minimum": 3}
    llm.with_structured_output({"title": "a", "$ref": "#/$defs/p0", "$defs": parts})


def of_lists(levels):
    kind = int
    for _ in range(levels):
        kind = list[kind]
    return kind


def test_types_without_end_are_refused(llm):
    lists = TypedDict("lists", {"a": of_lists(DEEP)})  # noqa: UP013 - made here
    dicts = int
    for i in range(2000):
        dicts = TypedDict(f"Dict{i}", {"a": dicts})  # noqa: UP013 - made here
    models = int
    for i in range(150):
        models = create_model(f"Model{i}", a=(models, ...))

    def called(a):
        """Do something."""

    called.__annotations__["a"] = of_lists(DEEP)
    for kind in (lists, dicts, models):
        for method in ("json_schema", "function_calling"):
            with pytest.raises(InvalidRequestError, match=r"is not possible|is no tool"):
                llm.with_structured_output(kind, method=method)
        with pytest.raises(InvalidRequestError, match=r"^schema"):
            schema_of(kind)
    for tool in (lists, dicts, models, called):
        with pytest.raises(InvalidRequestError, match=r"^tools\[0\]"):
            llm.bind_tools([tool])


class Tree(BaseModel):
    left: Optional["Tree"] = None
    right: Optional["Tree"] = None


def test_a_type_that_refers_to_itself_is_taken(llm):
    for method in ("json_schema", "function_calling"):
        llm.with_structured_output(Tree, method=method)
