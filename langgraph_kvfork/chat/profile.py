"""What a model can do, from its file's metadata: LangChain's model profile."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING

from langgraph_kvfork.engine.model_facts import ModelFacts, model_facts
from langgraph_kvfork.engine.params import EngineParams
from langgraph_kvfork.errors import KVForkError

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


def model_profile(params: EngineParams) -> ModelProfile | None:
    """Return the profile of the model that `params` name; None if its file cannot be read.

    The file's metadata is read, and no weights. It is read once for each state of the file.
    """
    try:
        status = os.stat(params.model_files[0])
        facts = _read(params, (status.st_mtime_ns, status.st_size))
    except (OSError, KVForkError):
        return None
    profile: ModelProfile = {
        "max_input_tokens": _context(params, facts.n_ctx_train),
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
        "reasoning_output": facts.thinks,
        "tool_calling": True,
        "tool_choice": True,
        "temperature": True,
        # no structured_output: create_agent would then ask for a schema beside tools in one call,
        # and an answer has one grammar; without, it makes the schema a tool
    }
    if facts.name:
        profile["name"] = facts.name
    return profile


def _context(params: EngineParams, n_ctx_train: int) -> int:
    stretched = any(getattr(params, name) is not None for name in _ROPE)
    if params.n_ctx and (stretched or not n_ctx_train):
        return params.n_ctx
    # the pool may be larger, for many branches: none of them should be
    return min(params.n_ctx or n_ctx_train, n_ctx_train)


@lru_cache(maxsize=64)
def _read(params: EngineParams, _state: tuple[int, int]) -> ModelFacts:
    return model_facts(params)
