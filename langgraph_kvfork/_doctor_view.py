"""What `doctor` and `inspect` print for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from langgraph_kvfork._terminal import fold
from langgraph_kvfork._units import size

_LABEL = 10
"""Columns of the labels on the left."""


def doctor_text(found: Mapping[str, Any], width: int | None = None) -> str:
    """Return what `doctor` found, in words; `width`: the longest line."""
    free = found["free_memory_bytes"]
    lines = [
        f"langgraph-kvfork {found['version']}, Python {found['python']}, {found['platform']}",
        f"library:  {found['library']}",
        f"          llama.cpp of llama-cpp-python {found['llama_cpp_python']}; "
        f"{', '.join(found['features'])}",
        f"threads:  {found['threads']}",
    ]
    lines += [
        f"device:   {device['name']}, {device['type']}: {device['description']}, "
        f"{size(device['free_bytes'])} of {size(device['total_bytes'])} free"
        for device in found["devices"]
    ]
    lines.append(f"memory:   {'unknown' if free is None else size(free) + ' free'}")
    return fold("\n".join([*lines, "", *_model(found["model"])]), width, _LABEL)


def inspect_text(model: Mapping[str, Any], width: int | None = None) -> str:
    """Return what a model file says of itself, in words; `width`: the longest line."""
    return fold("\n".join(_model(model)), width, _LABEL)


def _model(model: Mapping[str, Any]) -> Iterator[str]:
    yield f"model:    {model['path']}"
    name = f"{model['name']}, " if model["name"] else ""
    yield f"          {name}{size(model['file_bytes'])}, architecture {model['architecture']}"
    yield (
        f"          {model['n_layer']} layers, {model['n_vocab']:,} tokens in the vocabulary, "
        f"training context {model['n_ctx_train']:,}"
    )
    yield f"forks:    {model['memory']}"
    yield f"template: {_template(model)}"
    if model["cell_bytes"]:
        yield f"KV cache: {model['cell_bytes']:,} bytes per token in f16"
    fits = model["fits"]
    if not fits:
        yield "fits:     unknown, since the file or the system does not say enough"
        return
    yield f"fits:     about {fits['cells']:,} cells (n_ctx) in the free memory. That is at most:"
    yield f"          {'context':>9}  {'branches that share it':>22}  {'not sharing':>11}"
    for row in fits["branches"]:
        yield f"          {row['context']:>9,}  {row['sharing']:>22,}  {row['alone']:>11,}"
    yield f"          ({fits['own_tokens']} tokens of a context are a branch's own)"


def _template(model: Mapping[str, Any]) -> str:
    if not model["chat_template"]:
        return "none in the file: chatml is taken, or give chat_template"
    tools = "knows tools" if model["tools"] else "knows no tools (they come as text)"
    return f"{tools}, {'thinks' if model['thinks'] else 'does not think'}"
