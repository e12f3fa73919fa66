"""What a model file says of itself, without loading its weights."""

from __future__ import annotations

import ctypes
import json
import os
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from langgraph_kvfork.engine.chat_template import ChatTemplate
from langgraph_kvfork.engine.ending import native_work
from langgraph_kvfork.engine.model_file import load_model
from langgraph_kvfork.engine.params import EngineParams
from langgraph_kvfork.errors import InvalidRequestError
from langgraph_kvfork.native import abi
from langgraph_kvfork.native.abi import Native

_F16_BYTES = Fraction(2)


@dataclass(frozen=True)
class ModelFacts:
    """What a GGUF file says of itself.

    Attributes:
        path: The file.
        file_bytes: Its size (of its first part, if it is split).
        name: The model's name; "" if it has none.
        architecture: llama.cpp's name for its kind.
        n_ctx_train: Training context, in tokens.
        n_layer: Layers.
        n_vocab: Tokens in the vocabulary.
        cell_bytes: Bytes of the KV cache per token, in f16; None where its layers do not say.
        memory: How far it can be forked: "anywhere", "within its window", or "where it stands".
        chat_template: Whether the file has one.
        tools: Whether the template knows tools (others get them as text).
        thinks: Whether it knows thoughts.
    """

    path: str
    file_bytes: int
    name: str
    architecture: str
    n_ctx_train: int
    n_layer: int
    n_vocab: int
    cell_bytes: int | None
    memory: str
    chat_template: bool
    tools: bool
    thinks: bool


def model_facts(params: EngineParams) -> ModelFacts:
    """Read a file's metadata and vocabulary.

    Args:
        params: The file, and the chat template if it is not the file's own.

    Raises:
        ModelLoadError: The file is missing, is not a GGUF file, or llama.cpp cannot read it.
        NativeLibraryError: The native library cannot be used.
    """
    native = abi.native()
    with native_work:
        return _facts(native, params)


def _facts(native: Native, params: EngineParams) -> ModelFacts:
    model = load_model(native, params, vocab_only=True)
    llama = native.llama
    try:
        values = _Metadata(native, model)
        template = _capabilities(native, model, params.chat_template)
        return ModelFacts(
            path=str(params.model_path),
            file_bytes=os.stat(params.model_files[0]).st_size,
            name=values.text("general.name"),
            architecture=values.architecture,
            n_ctx_train=values.number("context_length") or 0,
            n_layer=values.number("block_count") or 0,
            n_vocab=int(llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))),
            cell_bytes=_cell_bytes(values, _F16_BYTES, _F16_BYTES),
            memory=_memory(native, model, values),
            chat_template=bool(values.text("tokenizer.chat_template")),
            tools=template.get("supports_tools", False),
            thinks=template.get("supports_thinking", False),
        )
    finally:
        llama.llama_model_free(model)


def cell_bytes(native: Native, model: int, type_k: int, type_v: int) -> int | None:
    """Return how many bytes of the KV cache each token takes.

    Args:
        native: The native library.
        model: A model that is loaded.
        type_k: The K cache's `GGML_TYPE_*`.
        type_v: The V cache's.

    Returns:
        The bytes; None where tokens do not all take the same (sliding windows, recurrent states),
        where more or less than keys and values is kept, and where the file does not say.
    """
    values = _Metadata(native, model)
    # latent attention keeps something smaller, sparse attention an index beside
    other = any(values.number(f"attention.{key}") for key in ("kv_lora_rank", "indexer.key_length"))
    if other or _memory(native, model, values) != "anywhere":
        return None
    return _cell_bytes(values, _value_bytes(native, type_k), _value_bytes(native, type_v))


class _Metadata:
    """The key-value pairs of a file."""

    def __init__(self, native: Native, model: int) -> None:
        self._native = native
        self._model = model
        self.architecture = self.text("general.architecture")

    def text(self, key: str) -> str:
        size = 256
        while True:
            value = ctypes.create_string_buffer(size)
            count: int = self._native.llama.llama_model_meta_val_str(
                self._model, key.encode(), value, size
            )
            if count < size:
                return value.value.decode(errors="replace") if count >= 0 else ""
            size = count + 1

    def value(self, key: str) -> Any:
        """Return a number, or a list with one for each layer, of the architecture; None if none."""
        text = self.text(f"{self.architecture}.{key}")
        try:
            return json.loads(text)
        except ValueError:
            return None

    def number(self, key: str) -> int | None:
        value = self.value(key)
        return value if isinstance(value, int) else None


def _cell_bytes(values: _Metadata, k_bytes: Fraction, v_bytes: Fraction) -> int | None:
    n_layer, n_head = values.number("block_count"), values.number("attention.head_count")
    n_embd = values.number("embedding_length")
    if not n_layer or not n_head or not n_embd:
        return None
    n_head_kv = values.value("attention.head_count_kv") or n_head
    if isinstance(n_head_kv, int):
        n_head_kv = [n_head_kv] * n_layer
    k = values.number("attention.key_length") or n_embd // n_head
    v = values.number("attention.value_length") or n_embd // n_head
    return int(sum(n_head_kv) * (k * k_bytes + v * v_bytes))


def _value_bytes(native: Native, ggml_type: int) -> Fraction:
    # of ggml.h, which llama-cpp-python's bindings do not declare
    size = native.kvf.ggml_type_size
    size.restype = ctypes.c_size_t
    block = native.kvf.ggml_blck_size
    block.restype = ctypes.c_int64
    return Fraction(size(ggml_type), block(ggml_type))


def _memory(native: Native, model: int, values: _Metadata) -> str:
    llama = native.llama
    if llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model):
        return "where it stands"
    return "within its window" if values.number("attention.sliding_window") else "anywhere"


def _capabilities(native: Native, model: int, chat_template: str | None) -> dict[str, bool]:
    try:
        return ChatTemplate(native, model, chat_template).capabilities()
    except InvalidRequestError:
        return {}  # rendering with it raises the reason
