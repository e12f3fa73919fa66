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


def _random(size: str, file_type: str) -> Model:
    name = f"qwen-{size}-{file_type}.gguf".lower()
    return Model(
        f"random weights of Qwen2.5-{size}'s shape, {file_type}",
        lambda: str(qwen_shape(ROOT / "build" / "bench" / name, size, file_type)),
    )


MODELS = {
    "SmolLM2": Model("SmolLM2-135M-Instruct, Q4_1", smollm2_path),
    "Qwen-0.5B-Q4_K_M": _random("0.5B", "Q4_K_M"),
    "Qwen-0.5B-Q8_0": _random("0.5B", "Q8_0"),
    "Qwen-1.5B-Q4_K_M": _random("1.5B", "Q4_K_M"),
    "Qwen-1.5B-Q8_0": _random("1.5B", "Q8_0"),
    "Qwen-1.5B-Q4_0": _random("1.5B", "Q4_0"),
}
