"""Like for like, a branch's logits are an unforked run's, bit for bit, on the real document."""

import ctypes

import numpy as np
import pytest

from langgraph_kvfork import Request, Token
from langgraph_kvfork.engine.params import context_params
from langgraph_kvfork.native.abi import native

CPU_OPTIONS = 1 << 0 | 1 << 2
"""Attention and products of a fan-out, as the engine has them (`ggml-cpu-options.h`)."""

QUESTIONS = ["List the obligations.", "What about patents?", "Who is liable for damages?"]


@pytest.fixture
def unforked(engine):
    """Decode chunks of tokens in a context of their own; give the logits after each chunk."""
    llama = native().llama
    params = context_params(engine.params, llama, engine._model)
    ctx = llama.llama_init_from_model(engine._model, params)
    set_options = native().kvf.llama_set_cpu_options
    set_options.argtypes, set_options.restype = [ctypes.c_void_p, ctypes.c_uint32], ctypes.c_bool
    assert set_options(ctx, CPU_OPTIONS)
    n_vocab = llama.llama_vocab_n_tokens(engine._vocab)

    def decode(*chunks):
        for chunk in chunks:
            tokens = (llama.llama_token * len(chunk))(*chunk)
            assert llama.llama_decode(ctx, llama.llama_batch_get_one(tokens, len(chunk))) == 0
            yield np.ctypeslib.as_array(llama.llama_get_logits_ith(ctx, -1), (n_vocab,)).copy()
        llama.llama_memory_clear(llama.llama_get_memory(ctx), False)

    yield decode
    llama.llama_free(ctx)


def logits(event):
    """The logits of the row that a token was sampled from, by token."""
    row = np.empty(len(event.logprobs) - 1, dtype=np.float32)
    for logprob in event.logprobs[1:]:
        row[logprob.token] = logprob.logit
    return row


def test_a_fork_computes_what_an_unforked_run_computes(llm, engine, document, unforked):
    shared = engine.tokenize(
        engine.render(
            [{"role": "system", "content": document[0].content}], add_generation_prompt=False
        ).text
    )
    n_batch = engine.params.n_batch
    n_vocab = native().llama.llama_vocab_n_tokens(engine._vocab)

    for question in QUESTIONS:
        prompt = engine.tokenize(
            engine.render(
                [
                    {"role": "system", "content": document[0].content},
                    {"role": "user", "content": question},
                ]
            ).text
        )
        assert prompt[: len(shared)] == shared

        engine.clear()  # the cells lie as in an unforked run only if nobody else has any
        engine.prefill(shared)
        request = Request(max_tokens=4, temperature=0, logprobs=n_vocab)
        with engine.generate(prompt, request) as branch:
            events = list(branch)
        tokens = [event for event in events if isinstance(event, Token)]
        assert events[-1].usage.forked_tokens == len(shared)
        assert len(tokens) == 4

        chunks = [shared[i : i + n_batch] for i in range(0, len(shared), n_batch)]
        rows = list(unforked(*chunks, prompt[len(shared) :], *([t.token] for t in tokens[:-1])))
        for event, expected in zip(tokens, rows[len(chunks) :], strict=True):
            assert np.array_equal(logits(event), expected)
