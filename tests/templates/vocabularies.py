"""Vocabularies without a model: llama.cpp's own, and one with the marks of every template."""

import re
from functools import cache
from pathlib import Path

import gguf

from langgraph_kvfork.native import abi

SOURCE = Path(__file__).parents[2] / "build" / "llama.cpp" / "models"
TEMPLATES = sorted(path.name for path in (SOURCE / "templates").glob("*.jinja"))

_MARK = re.compile(
    r"<\|[^<>|'\"\s{}]+\|?>|<[a-zA-Z_:/]+\|>|<\uff5c[^<>'\"{}]+\uff5c>|</?[a-zA-Z_:]+>|\[/?[A-Z_]+\]"
)


@cache
def native():
    native = abi.native()
    native.llama.llama_backend_init()
    native.kvf.kvf_set_log_level(0)
    return native


@cache
def load(path):
    """Return a model that is a vocabulary only."""
    llama = native().llama
    params = llama.llama_model_default_params()
    params.vocab_only = True
    model = llama.llama_model_load_from_file(str(path).encode(), params)
    assert model
    return model


def marks(template):
    """Return what a template's source has that looks like a special token's name."""
    source = (SOURCE / "templates" / template).read_text(encoding="utf-8")
    return set(_MARK.findall(source))


def write_vocabulary_of_all_marks(path):
    """Write the beginning of GPT-2's vocabulary, with a token more for each mark of each template.

    Those with bars or in square brackets are control tokens, others, such as <think>, are
    user-defined, as they are in the models' own vocabularies.
    """
    reader = gguf.GGUFReader(SOURCE / "ggml-vocab-gpt-2.gguf")

    def beginning(name, count):
        field = reader.fields[f"tokenizer.ggml.{name}"]
        return [bytes(field.parts[i]).decode() for i in field.data[:count]]

    n_merges = 3000  # each makes the token of its number, after those of the 256 bytes
    tokens = beginning("tokens", 256 + n_merges)
    types = [gguf.TokenType.NORMAL] * len(tokens)
    written = {"</s>", "<|im_start|>", "<|im_end|>"}.union(*map(marks, TEMPLATES))
    for mark in sorted(written):
        is_control = "|" in mark or "\uff5c" in mark or mark.startswith("[") or mark == "</s>"
        tokens.append(mark)
        types.append(gguf.TokenType.CONTROL if is_control else gguf.TokenType.USER_DEFINED)
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(beginning("merges", n_merges))
    writer.add_eos_token_id(tokens.index("</s>"))
    writer.add_bos_token_id(tokens.index("</s>"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
