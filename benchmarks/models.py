"""The models that are measured, by the names that the grids and tables use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.job import ROOT
from benchmarks.qwen_shape import qwen_shape
from langgraph_kvfork.engine.default_model import smollm2_path


@dataclass(frozen=True)
class Model:
    """A model.

    Attributes:
        label: What tables say of it.
        path: Returns its file, and makes it first if need be.
    """

    label: str
    path: Callable[[], str]


MODELS = {
    "SmolLM2": Model("SmolLM2-135M-Instruct, Q4_1", smollm2_path),
    "Qwen-shape": Model(
        "random weights of Qwen2.5-0.5B's shape, Q8_0",
        lambda: str(qwen_shape(ROOT / "build" / "bench" / "qwen-shape-q8_0.gguf")),
    ),
}
