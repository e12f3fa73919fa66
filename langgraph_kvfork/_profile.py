"""What a model can do, from its file's metadata: LangChain's model profile."""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from langgraph_kvfork import _native
from langgraph_kvfork._chat_template import ChatTemplate
from langgraph_kvfork._model_file import load_model
from langgraph_kvfork._native import Native
from langgraph_kvfork.engine_params import EngineParams
from langgraph_kvfork.errors import InvalidRequestError, KVForkError

if TYPE_CHECKING:
    from langchain_core.language_models.model_profile import ModelProfile

_ROPE = (
    "rope_scaling_type",
    "rope_freq_base",
    "rope_freq_scale",
    "yarn_ext_factor",
    "yarn_orig_ctx",
)
"""Parameters that take a model beyond its training context."""


class _Metadata(NamedTuple):
    name: str | None
    n_ctx_train: int
    thinks: bool


def model_profile(params: EngineParams) -> ModelProfile | None:
    """Return the profile of the model that `params` name; None if its file cannot be read.

    The file's metadata is read, and no weights. It is read once for each state of the file.
    """
    try:
        status = os.stat(params.model_path)
        metadata = _read(
            EngineParams(params.model_path, chat_template=params.chat_template),
            (status.st_mtime_ns, status.st_size),
        )
    except (OSError, KVForkError):
        return None
    profile: ModelProfile = {
        "max_input_tokens": _context(params, metadata.n_ctx_train),
        "text_inputs": True,
        "image_inputs": False,
        "image_url_inputs": False,
        "pdf_inputs": False,
        "audio_inputs": False,
        "video_inputs": False,
        "text_outputs": True,
        "image_outputs": False,
        "audio_outputs": False,
        "video_outputs": False,
        "reasoning_output": metadata.thinks,
        "tool_calling": True,
        "tool_choice": True,
        "temperature": True,
        # no structured_output: create_agent would then ask for a schema beside tools in one call,
        # and an answer has one grammar; without, it makes the schema a tool
    }
    if metadata.name:
        profile["name"] = metadata.name
    return profile


def _context(params: EngineParams, n_ctx_train: int) -> int:
    stretched = any(getattr(params, name) is not None for name in _ROPE)
    if params.n_ctx and (stretched or not n_ctx_train):
        return params.n_ctx
    # the pool may be larger, for many branches: none of them should be
    return min(params.n_ctx or n_ctx_train, n_ctx_train)


@lru_cache(maxsize=64)
def _read(params: EngineParams, _state: tuple[int, int]) -> _Metadata:
    native = _native.native()
    model = load_model(native, params, vocab_only=True)
    try:
        architecture = _value(native, model, "general.architecture")
        return _Metadata(
            name=_value(native, model, "general.name"),
            n_ctx_train=int(_value(native, model, f"{architecture}.context_length") or 0),
            thinks=_thinks(native, model, params.chat_template),
        )
    finally:
        native.llama.llama_model_free(model)


def _value(native: Native, model: int, key: str) -> str | None:
    size = 256
    while True:
        value = ctypes.create_string_buffer(size)
        count: int = native.llama.llama_model_meta_val_str(model, key.encode(), value, size)
        if count < size:
            return value.value.decode(errors="replace") if count >= 0 else None
        size = count + 1


def _thinks(native: Native, model: int, chat_template: str | None) -> bool:
    try:
        return ChatTemplate(native, model, chat_template).capabilities()["supports_thinking"]
    except InvalidRequestError:
        return False  # whoever renders with it will be told why
