"""JSON schemas of Python types, also of those that refer to themselves, which LangChain loses."""

from __future__ import annotations

from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel


def model_schema(model: Any) -> dict[str, Any]:
    """Return a pydantic model's JSON schema, its parts among `$defs` or `definitions`."""
    schema: dict[str, Any] = (
        model.model_json_schema() if issubclass(model, BaseModel) else model.schema()
    )
    if "$ref" in schema:  # the model refers to itself
        place, name = schema.pop("$ref").split("/")[-2:]
        schema = {**schema[place][name], **schema}
    return {"title": model.__name__, **schema}


def recursive_parameters(tool: object) -> dict[str, Any] | None:
    """Return the parameters of a tool that refer to themselves; None: they do not."""
    model = tool.tool_call_schema if isinstance(tool, BaseTool) else tool
    if not isinstance(model, type) or not is_basemodel_subclass(model):
        return None
    schema = model_schema(model)
    if not _is_recursive(schema):
        return None
    return {key: part for key, part in schema.items() if key not in {"title", "description"}}


def _is_recursive(schema: dict[str, Any]) -> bool:
    parts = {**schema.get("$defs", {}), **schema.get("definitions", {})}
    leads_to = {name: set(_names(part)) for name, part in parts.items()}
    for name in parts:
        found: set[str] = set()
        queue = list(leads_to[name])
        while queue:
            other = queue.pop()
            if other not in found:
                found.add(other)
                queue += leads_to.get(other, ())
        if name in found:
            return True
    return False


def _names(value: object) -> list[str]:
    if isinstance(value, dict):
        here = [str(value["$ref"]).rsplit("/", 1)[-1]] if "$ref" in value else []
        return here + [name for part in value.values() for name in _names(part)]
    return [name for part in value for name in _names(part)] if isinstance(value, list) else []
