"""A model's vocabulary: text becomes tokens, and tokens become text."""

from __future__ import annotations

import ctypes

from langgraph_kvfork.engine.chat_template import RenderedPrompt
from langgraph_kvfork.errors import InvalidRequestError
from langgraph_kvfork.native.abi import Native, last_error


def tokenize(
    native: Native,
    model: int,
    prompt: str | RenderedPrompt,
    *,
    add_special: bool,
    parse_special: bool,
) -> list[int]:
    """Turn text into tokens; see `Engine.tokenize`."""
    text, plain = (prompt, ()) if isinstance(prompt, str) else (prompt.text, prompt.plain)
    data = text.encode(errors="replace")
    offsets = (ctypes.c_uint64 * len(plain))(*plain)
    size = len(data) // 2 + 8
    while True:
        tokens = (ctypes.c_int32 * size)()
        count = native.kvf.kvf_tokenize(
            model, data, len(data), offsets, len(plain), tokens, size, add_special, parse_special
        )
        if count < 0:
            raise last_error(native)
        if count <= size:
            return list(tokens[:count])
        size = count


def token_bytes(native: Native, vocab: int, token: int, *, special: bool) -> bytes:
    """Return the bytes that a token stands for; see `Engine.token_bytes`."""
    llama = native.llama
    n_vocab = llama.llama_vocab_n_tokens(vocab)
    if not 0 <= token < n_vocab:
        raise InvalidRequestError(f"token={token!r} is not possible: pass 0 to {n_vocab - 1}.")
    size = 64
    while True:
        piece = ctypes.create_string_buffer(size)
        count = llama.llama_token_to_piece(vocab, token, piece, size, 0, special)
        if count >= 0:
            return piece.raw[:count]
        size = -count
