"""The kinds of memory, as dummy models with random weights."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alone import KVF, LLAMA, NATIVE

from langgraph_kvfork.native.abi import LogLevel, last_error

ROOT = Path(__file__).parents[2]
WRITER = Path(
    os.environ.get(
        "KVFORK_TEST_LLAMA_ARCHS", ROOT / "build" / "native" / "bin" / "test-llama-archs"
    )
)
N_BATCH = 32


@dataclass(frozen=True)
class Kind:
    """A model, and how its memory is set up.

    Attributes:
        name: For people.
        file: The dummy model's.
        batch_invariant: Then logits are compared bit by bit.
        type_kv: Of the cache's numbers.
        swa_full: Whether a window's cells are kept when it has moved on.
        forks_anywhere: Whether a sequence can be forked at each of its tokens, so that what is
            forked can be foretold exactly.
        has_store: Whether its memory can be stored.
        error: Most that logits may differ, as a normalized mean squared error, where bits may. Sums
            over cells and over the rows of a batch are made in another order, and keys and values
            are rounded to 16 or 8 bits after each layer.
        large: Cells and sequences of a cache that has room for all of a history.
        cost: How many times as long as with attention a step takes; so many times fewer histories.
    """

    name: str
    file: str
    batch_invariant: bool = False
    type_kv: str = "f16"
    swa_full: bool = True
    forks_anywhere: bool = False
    has_store: bool = True
    error: float = 1e-5
    large: tuple[int, int] = (8192, 48)
    cost: int = 1

    def params(self, n_ctx: int, n_seq_max: int) -> Any:
        """Return `struct llama_context_params`."""
        params = LLAMA.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = N_BATCH
        params.n_seq_max = n_seq_max
        params.kv_unified = True
        params.swa_full = self.swa_full
        params.n_threads = params.n_threads_batch = 1
        params.type_k = params.type_v = {
            "f16": LLAMA.GGML_TYPE_F16,
            "q8_0": LLAMA.GGML_TYPE_Q8_0,
        }[self.type_kv]
        params.flash_attn_type = LLAMA.LLAMA_FLASH_ATTN_TYPE_ENABLED
        return params


KINDS = (
    Kind("attention, bits", "llama-dense", batch_invariant=True, forks_anywhere=True),
    Kind("attention", "llama-dense", forks_anywhere=True),
    Kind("experts, bits", "qwen3moe-moe", batch_invariant=True, forks_anywhere=True),
    Kind("latent attention", "deepseek2-moe", forks_anywhere=True),
    Kind("indexer", "deepseek32-moe", forks_anywhere=True, cost=10),
    Kind("window, all kept", "gemma3-dense"),
    Kind("window, moves on", "gemma3-dense", swa_full=False),
    Kind("window, bits", "gpt-oss-moe", batch_invariant=True, swa_full=False, cost=3),
    Kind("recurrent", "mamba2-dense", cost=2),
    Kind("hybrid", "jamba-dense", cost=5),
    Kind("hybrid of linear attention", "qwen3next-moe", cost=2),
    # it has buffers of its own for each sequence, which are copied
    Kind("compressed", "deepseek4-moe", has_store=False, large=(1024, 8), cost=20),
)


def write_models(folder: Path) -> None:
    """Write the dummy models, with the same weights each time."""
    archs = "|".join(sorted({kind.file.rsplit("-", 1)[0] for kind in KINDS}))
    subprocess.run(
        [WRITER, "-s", "1", "-a", f"^({archs})$", "-o", folder], check=True, capture_output=True
    )


def load(folder: Path, kind: Kind) -> int:
    """Return the model; its log is silent."""
    KVF.kvf_set_log_level(LogLevel.NONE)
    params = LLAMA.llama_model_default_params()
    model = LLAMA.llama_model_load_from_file(str(folder / f"{kind.file}.gguf").encode(), params)
    if not model:
        raise last_error(NATIVE)
    return int(model)
