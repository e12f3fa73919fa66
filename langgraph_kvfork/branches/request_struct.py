"""A `Request` and its prompt as the struct that the native library takes."""

from __future__ import annotations

import array
import ctypes
from collections.abc import Sequence
from typing import Any

from langgraph_kvfork.arguments import RANDOM_SEED
from langgraph_kvfork.branches.request import Request
from langgraph_kvfork.errors import InvalidRequestError
from langgraph_kvfork.native.abi import Native

_KEEP: dict[bool | str, int] = {True: 0, "prefix": 1, False: 2}
"""`enum kvf_keep`."""


def native_request(native: Native, tokens: Sequence[int], request: Request, run_id: int) -> Any:
    """Return a `kvf_request`. It keeps alive what its pointers point to.

    Raises:
        InvalidRequestError: `tokens` are not whole numbers that fit into a token id.
    """
    result = native.kvf.kvf_request_default()
    try:
        ids = array.array("i", tokens)
    except (TypeError, OverflowError) as error:
        raise InvalidRequestError(f"The prompt is not a sequence of token ids: {error}.") from error
    if ids:
        result.tokens = (ctypes.c_int32 * len(ids)).from_buffer(ids)
    result.n_tokens = len(ids)
    result.n_predict = -1 if request.max_tokens is None else request.max_tokens
    result.n_logprobs = -1 if request.logprobs is None else request.logprobs
    result.share = request.share_prefix
    result.ignore_eos = request.ignore_eos
    result.keep = _KEEP[request.keep]
    if request.namespace is not None:
        result.name_space = request.namespace.encode()
    result.run_id = run_id

    sampling = result.sampling
    random = request.seed is None or request.seed < 0
    sampling.seed = RANDOM_SEED if random else request.seed
    sampling.top_k = request.top_k
    sampling.top_p = request.top_p
    sampling.min_p = request.min_p
    sampling.typical_p = request.typical_p
    sampling.temperature = request.temperature
    sampling.repeat_last_n = request.last_n_tokens_size
    sampling.repeat_penalty = request.repeat_penalty
    sampling.frequency_penalty = request.frequency_penalty
    sampling.presence_penalty = request.presence_penalty

    if request.stop:
        stop = [text.encode(errors="replace") for text in request.stop]
        result.stop = (ctypes.c_char_p * len(stop))(*stop)
        result.n_stop = len(stop)
    if request.grammar is not None:
        result.grammar = request.grammar.encode(errors="replace")
    if request.answer_format is not None:
        result.format = request.answer_format.encode()
    if request.logit_bias:
        kind = native.llama.llama_logit_bias
        biases = [kind(token, bias) for token, bias in request.logit_bias.items()]
        result.logit_bias = (kind * len(biases))(*biases)
        result.n_logit_bias = len(biases)
    return result
