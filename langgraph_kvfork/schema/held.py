"""Schemas in the form that llama.cpp gets: rules of our own for the parts that its grammars drop.

Schemas that its converter holds stay as they are. In others, a constant stands where our rule goes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from langgraph_kvfork.errors import InvalidRequestError, SchemaWarning
from langgraph_kvfork.schema.formats import FORMATS, ONLY_CHECKED
from langgraph_kvfork.schema.grammar import Part, object_properties, schema_grammar
from langgraph_kvfork.schema.shapes import Object, Schema
from langgraph_kvfork.warning import is_news, warn

_ANNOTATIONS = {"title", "description", "default", "examples", "$defs", "definitions", "$schema"}
NOT_PLAIN = {
    "allOf",
    "oneOf",
    "pattern",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "prefixItems",
    "additionalItems",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "patternProperties",
    "propertyNames",
    "minProperties",
    "maxProperties",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedItems",
    "unevaluatedProperties",
    "not",
    "if",
    "$dynamicRef",
    "$recursiveRef",
    "$anchor",
    "$dynamicAnchor",
    "$id",
}
"""Keywords that llama.cpp's converter drops, refuses, or holds in part."""
_FIRST_CONSTANT = 918_273_645_000_000
"""Constants count on from here: values that no schema has by chance."""

_warned: dict[str, object] = {}
"""The keywords that a warning named, and a mark of its place."""


@dataclass(frozen=True, slots=True)
class HeldSchemas:
    """Some schemas as llama.cpp is given them.

    Attributes:
        schemas: The schemas.
        constants: The rule that goes where a constant is, by its JSON text.
        text: The rules, as GBNF.
        dropped: Keywords that do not hold.
    """

    schemas: list[Any]
    constants: dict[str, str] = field(default_factory=dict)
    text: str = ""
    dropped: tuple[str, ...] = ()


def joined_rules(some: Sequence[HeldSchemas]) -> dict[str, Any] | None:
    """Return the argument of rendering that puts the rules of some into a grammar; None: none."""
    constants = {constant: rule for held in some for constant, rule in held.constants.items()}
    # each brings those that all share
    lines = dict.fromkeys(line for held in some for line in held.text.splitlines())
    text = "".join(f"{line}\n" for line in lines)
    return {"constants": constants, "text": text} if constants else None


def held_answer(schema: dict[str, Any]) -> HeldSchemas:
    """Return an answer's schema as llama.cpp is given it.

    Raises:
        InvalidRequestError: Nothing can match it, or a reference in it leads nowhere.
    """
    return _held_answer(json.dumps(schema))


@lru_cache(maxsize=256)
def _held_answer(text: str) -> HeldSchemas:
    schema = json.loads(text)
    if _is_plain(schema):
        return HeldSchemas([schema])
    grammar = schema_grammar(schema, [Part(schema)])
    name = grammar.names[0]
    if name is None:
        raise InvalidRequestError(
            f"schema={text[:400]} is not possible: nothing can match it; leave a part of it out."
        )
    constant = _FIRST_CONSTANT
    return HeldSchemas([{"const": constant}], {str(constant): name}, grammar.rules, grammar.dropped)


def held_tools(tools: list[dict[str, Any]]) -> HeldSchemas:
    """Return tools, in OpenAI's form, as llama.cpp is given them.

    Raises:
        InvalidRequestError: Nothing can match one's parameters, or a reference leads nowhere.
    """
    return _held_tools(json.dumps(tools))


@lru_cache(maxsize=256)
def _held_tools(text: str) -> HeldSchemas:
    held = HeldSchemas([])
    dropped: dict[str, None] = {}
    texts: list[str] = []
    for i, tool in enumerate(json.loads(text)):
        parameters = tool["function"].get("parameters") or {}
        if not _is_plain(parameters):
            name = tool["function"]["name"]
            parameters, rules = _held_parameters(parameters, name, f"kvf-{i}-", held.constants)
            texts.append(rules.text)
            dropped.update(dict.fromkeys(rules.dropped))
            tool = {**tool, "function": {**tool["function"], "parameters": parameters}}
        held.schemas.append(tool)
    return HeldSchemas(held.schemas, held.constants, "".join(texts), tuple(dropped))


def _held_parameters(
    parameters: dict[str, Any], tool: str, prefix: str, constants: dict[str, str]
) -> tuple[dict[str, Any], HeldSchemas]:
    """Return a tool's parameters with constants for schemas that are not plain, and their rules.

    The object itself stays llama.cpp's, since not all templates write it as JSON.
    """
    shapes, properties = object_properties(parameters)
    if not shapes:
        raise InvalidRequestError(
            f"The parameters of {tool} are not possible: no object can match them; leave a part of "
            "them out."
        )
    parts: list[Part] = []
    places: list[tuple[str, bool]] = []
    names: dict[str, list[Schema]] = {}
    for name, schema in properties.items():
        if _is_plain(schema):
            names[name] = [schema]
            continue
        names[name] = []
        for strings in (True, False):  # apart, since some templates write strings without quotes
            parts.append(Part(schema, strings=strings))
            places.append((name, strings))
    grammar = schema_grammar(parameters, parts, prefix)
    for (name, strings), rule in zip(places, grammar.names, strict=True):
        if rule is not None:
            number = _FIRST_CONSTANT + 1 + len(constants)  # after that of an answer
            constant = str(number) if strings else number
            constants[json.dumps(constant)] = rule
            names[name].append({**_described(properties[name], strings=strings), "const": constant})
    dropped = list(grammar.dropped)
    required = [name for name in shapes[0].required if all(name in s.required for s in shapes)]
    if impossible := [name for name in required if not names.get(name)]:
        raise InvalidRequestError(
            f"The parameters of {tool} are not possible: nothing can match {impossible[0]}, which "
            "is required; change it."
        )
    if len(shapes) > 1:
        dropped.append("a union of objects as a tool's parameters")
    if any(shape.low > len(shape.required) or shape.high is not None for shape in shapes):
        dropped.append("minProperties or maxProperties of a tool's parameters")
    held: dict[str, Any] = {
        key: parameters[key] for key in ("$defs", "definitions") if key in parameters
    }
    held |= {
        "type": "object",
        "properties": {
            name: one[0] if len(one) == 1 else {"anyOf": one} for name, one in names.items() if one
        },
        "required": required,
    }
    if any(_is_open(shape) for shape in shapes):
        held["additionalProperties"] = True
    return held, HeldSchemas([], {}, grammar.rules, tuple(dropped))


def _described(schema: Schema, *, strings: bool) -> dict[str, Any]:
    """Return the keywords of a property that templates may read, beside its constant."""
    known = schema if isinstance(schema, dict) else {}
    kind = known.get("type")
    other = kind if isinstance(kind, str) and kind != "string" else "object"
    annotations = {key: known[key] for key in ("title", "description") if key in known}
    return {**annotations, "type": "string" if strings else other}


def _is_open(shape: Object) -> bool:
    return any(p.others not in (None, False) or p.patterns for p in shape.properties)


def warn_of_dropped(held: HeldSchemas, where: str) -> None:
    """Name, once, the keywords of a schema that do not hold while an answer is generated."""
    if not held.dropped:
        return
    message = (
        f"{where}: {', '.join(held.dropped)} cannot hold while an answer is generated. Answers are "
        "checked, and one that does not match is a StructuredOutputError."
    )
    if is_news(_warned, message):
        warn(message, SchemaWarning)


def _is_plain(schema: Any) -> bool:
    """Return whether llama.cpp's converter holds all of a schema."""
    if not isinstance(schema, dict) or schema.keys() & NOT_PLAIN:
        return False
    if schema.get("format") in FORMATS or schema.get("format") in ONLY_CHECKED:
        return False
    kind = schema.get("type")
    if not (kind is None or isinstance(kind, str)):
        return False
    if not all(map(_is_plain, (schema.get("$defs") or {}).values())):
        return False
    if "$ref" in schema:
        reference = str(schema["$ref"])
        plain = reference.startswith(("#/$defs/", "#/definitions/")) and "~" not in reference
        return plain and "%" not in reference and not schema.keys() - _ANNOTATIONS - {"$ref"}
    if "anyOf" in schema:
        alone = not schema.keys() - _ANNOTATIONS - {"anyOf"}
        return alone and all(map(_is_plain, schema["anyOf"]))
    if "const" in schema or "enum" in schema:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        strings = kind == "string" and all(isinstance(value, str) for value in values)
        of_kind = bool(values) and (kind is None or strings)
        return of_kind and not schema.keys() - _ANNOTATIONS - {"type", "const", "enum"}
    return _is_plain_object(schema) and _is_plain_array(schema) and _is_plain_string(schema)


def _is_plain_object(schema: dict[str, Any]) -> bool:
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties", False)
    if not schema.keys() & {"properties", "additionalProperties", "required"}:
        return True
    if schema.get("type", "object") != "object" or (others is not False and properties):
        return False
    if any(name not in properties for name in schema.get("required", ())):
        return False
    # llama.cpp names rules after properties; those with other characters may meet
    if not all(name.isascii() and name.isidentifier() for name in properties):
        return False
    return all(map(_is_plain, properties.values())) and (
        isinstance(others, bool) or _is_plain(others)
    )


def _is_plain_array(schema: dict[str, Any]) -> bool:
    if "items" in schema and not (isinstance(schema["items"], dict) and _is_plain(schema["items"])):
        return False
    if schema.keys() & {"items", "minItems", "maxItems"} and schema.get("type") != "array":
        return False
    return all(schema.get(key, 0) <= 1000 for key in ("minItems", "maxItems"))


def _is_plain_string(schema: dict[str, Any]) -> bool:
    if schema.keys() & {"minLength", "maxLength"} and schema.get("type") != "string":
        return False
    return all(schema.get(key, 0) <= 1000 for key in ("minLength", "maxLength"))
