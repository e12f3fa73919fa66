"""A model of Qwen2.5-0.5B's shape in Q8_0: its vocabulary is real, its weights are random.

How fast a model is does not depend on what its weights are. 530 MB, written in seconds.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np

ROOT = Path(__file__).parents[1]

N_LAYER, N_EMBD, N_HEAD, N_HEAD_KV, N_FF = 24, 896, 14, 2, 4864
N_EMBD_KV = N_EMBD // N_HEAD * N_HEAD_KV

# Qwen's own template, without what it says about tools
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def qwen_shape(path: Path) -> Path:
    """Write the model to `path`, if it is not there, and return it."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        _write(unfinished)
        unfinished.rename(path)
    return path


def _write(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_name("random weights of Qwen2.5-0.5B's shape")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_context_length(32768)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYER)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD_KV)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    n_vocab = _copy_vocabulary(writer)
    writer.add_chat_template(TEMPLATE)

    random = np.random.default_rng(0)

    def matrix(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(
            f"{name}.weight",
            random_q8_0(random, rows, columns),
            raw_dtype=gguf.GGMLQuantizationType.Q8_0,
        )

    def vector(name: str, values: np.ndarray) -> None:
        writer.add_tensor(name, values.astype(np.float32))

    matrix("token_embd", n_vocab, N_EMBD)  # the output's, too
    vector("output_norm.weight", np.ones(N_EMBD))
    for layer in range(N_LAYER):
        block = f"blk.{layer}"
        vector(f"{block}.attn_norm.weight", np.ones(N_EMBD))
        vector(f"{block}.ffn_norm.weight", np.ones(N_EMBD))
        for name, rows in (("attn_q", N_EMBD), ("attn_k", N_EMBD_KV), ("attn_v", N_EMBD_KV)):
            matrix(f"{block}.{name}", rows, N_EMBD)
            vector(f"{block}.{name}.bias", random.normal(0, 0.02, rows))
        matrix(f"{block}.attn_output", N_EMBD, N_EMBD)
        matrix(f"{block}.ffn_gate", N_FF, N_EMBD)
        matrix(f"{block}.ffn_up", N_FF, N_EMBD)
        matrix(f"{block}.ffn_down", N_EMBD, N_FF)

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def random_q8_0(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Return random rows in Q8_0, uniform around 0 with standard deviation 0.02."""
    # a block: its scale as a half, then 32 signed bytes
    blocks = random.integers(0, 256, (rows, columns // 32, 34), dtype=np.uint8)
    blocks[..., :2] = np.frombuffer(np.float16(0.02 / 74).tobytes(), np.uint8)
    return blocks.reshape(rows, -1)


def _copy_vocabulary(writer: gguf.GGUFWriter) -> int:
    """Copy what llama.cpp's own file of Qwen2's vocabulary says; return the count of tokens."""
    source = subprocess.run(
        [sys.executable, ROOT / "scripts" / "llama_cpp_source.py", "--stock"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    reader = gguf.GGUFReader(Path(source, "models", "ggml-vocab-qwen2.gguf"))
    n_vocab = 0
    for name, field in reader.fields.items():
        if not name.startswith("tokenizer.ggml."):
            continue
        value = field.contents()
        sub_type = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(name, value, field.types[0], sub_type)
        if name == "tokenizer.ggml.tokens":
            n_vocab = len(value)
    return n_vocab
