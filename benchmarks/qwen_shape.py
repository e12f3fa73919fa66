"""Models of Qwen2.5's shapes: their vocabulary is real, their weights are random.

How fast a model is does not depend on what its weights are. They are written in seconds, each
tensor in the type that `llama-quantize` gives it: a Q4_K_M file of the 0.5B model is Q5_0 and Q8_0
for the most part, since rows of 896 do not fill the blocks of 256 that Q4_K and Q6_K have.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

ROOT = Path(__file__).parents[1]

QuantType = gguf.GGMLQuantizationType


@dataclass(frozen=True)
class Shape:
    """The numbers of a model: layers, widths, heads of 64 or 128 values."""

    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    n_ff: int


SHAPES = {"0.5B": Shape(24, 896, 14, 2, 4864), "1.5B": Shape(28, 1536, 12, 2, 8960)}

FILE_TYPES = {
    "Q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "Q4_K_M": gguf.LlamaFileType.MOSTLY_Q4_K_M,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}

# Qwen's own template, without what it says about tools
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def qwen_shape(path: Path, size: str, file_type: str) -> Path:
    """Write a model to `path`, if it is not there, and return it.

    Args:
        path: The file.
        size: One of `SHAPES`.
        file_type: One of `FILE_TYPES`.
    """
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        _write(unfinished, size, file_type)
        unfinished.rename(path)
    return path


def _write(path: Path, size: str, file_type: str) -> None:
    shape = SHAPES[size]
    n_embd, n_ff = shape.n_embd, shape.n_ff
    n_embd_kv = n_embd // shape.n_head * shape.n_head_kv
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_name(f"random weights of Qwen2.5-{size}'s shape")
    writer.add_file_type(FILE_TYPES[file_type])
    writer.add_context_length(32768)
    writer.add_embedding_length(n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    n_vocab = _copy_vocabulary(writer)
    writer.add_chat_template(TEMPLATE)

    random = np.random.default_rng(0)

    def matrix(name: str, rows: int, columns: int, *, fine: bool = False) -> None:
        kind = type_of(file_type, columns, fine=fine)
        blocks = random_blocks(random, kind, rows, columns)
        writer.add_tensor(f"{name}.weight", blocks, raw_dtype=kind)

    def vector(name: str, values: np.ndarray) -> None:
        writer.add_tensor(name, values.astype(np.float32))

    matrix("token_embd", n_vocab, n_embd, fine=True)  # the output's, too
    vector("output_norm.weight", np.ones(n_embd))
    for layer in range(shape.n_layer):
        block = f"blk.{layer}"
        fine = file_type == "Q4_K_M" and is_fine(layer, shape.n_layer)
        vector(f"{block}.attn_norm.weight", np.ones(n_embd))
        vector(f"{block}.ffn_norm.weight", np.ones(n_embd))
        for name, rows in (("attn_q", n_embd), ("attn_k", n_embd_kv), ("attn_v", n_embd_kv)):
            matrix(f"{block}.{name}", rows, n_embd, fine=fine and name == "attn_v")
            vector(f"{block}.{name}.bias", random.normal(0, 0.02, rows))
        matrix(f"{block}.attn_output", n_embd, n_embd)
        matrix(f"{block}.ffn_gate", n_ff, n_embd)
        matrix(f"{block}.ffn_up", n_ff, n_embd)
        matrix(f"{block}.ffn_down", n_embd, n_ff, fine=fine)

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def is_fine(layer: int, n_layer: int) -> bool:
    """Whether a Q4_K_M file gives a layer's `attn_v` and `ffn_down` more bits.

    As `use_more_bits` in llama.cpp's `llama-quant.cpp` has it.
    """
    eighth = n_layer // 8
    return layer < eighth or layer >= 7 * n_layer // 8 or (layer - eighth) % 3 == 2


def type_of(file_type: str, columns: int, *, fine: bool) -> QuantType:
    """Return the type of a tensor in a file, as `llama-quantize` chooses it for this shape.

    Args:
        file_type: One of `FILE_TYPES`.
        columns: Values in a row.
        fine: The tensor is one of those that get more bits.
    """
    if file_type == "Q8_0":
        return QuantType.Q8_0
    whole = columns % gguf.GGML_QUANT_SIZES[QuantType.Q4_K][0] == 0
    if file_type == "Q4_0":  # the embedding has more bits, and no layer has
        return QuantType.Q4_0 if not fine else QuantType.Q6_K if whole else QuantType.Q8_0
    if fine:
        return QuantType.Q6_K if whole else QuantType.Q8_0
    return QuantType.Q4_K if whole else QuantType.Q5_0


SCALES = {
    # by type: where in a block the scale is, and what gives a standard deviation of about 0.02
    QuantType.Q4_0: {0: 0.02 / 4.6},
    QuantType.Q5_0: {0: 0.02 / 9.2},
    QuantType.Q8_0: {0: 0.02 / 74},
    # values are scale x (0..63) x (0..15) - minimum x (0..63)
    QuantType.Q4_K: {0: 0.02 / 250, 2: 0.02 / 250 * 7.5},
    # values are scale x (-128..127) x (-32..31)
    QuantType.Q6_K: {208: 0.02 / 1360},
}


def random_blocks(
    random: np.random.Generator, kind: QuantType, rows: int, columns: int
) -> np.ndarray:
    """Return random rows of a type, around 0: random bytes, with a scale that is a number."""
    size, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (rows, columns // size, n_bytes), dtype=np.uint8)
    for offset, scale in SCALES[kind].items():
        half = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
        blocks[..., offset : offset + 2] = half
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
