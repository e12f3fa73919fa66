"""The article's method: the document's state goes through host memory into each branch's context.

https://towardsdatascience.com: "KV cache reuse for multi-agent LLM inference" (2026-06-09). The
document is prefilled once; its KV state is exported to host memory; every branch makes a context
of its own, imports the state, and goes on from there; one lock lets one branch run at a time.
Written anew on stock llama-cpp-python's low-level bindings, and, unlike the original, made to
generate tokens.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import llama_cpp

from benchmarks.contestants.llama_cpp_python import prompt_tokens
from benchmarks.job import Found, Job, serve
from benchmarks.prompts import messages

State: TypeAlias = ctypes.Array[ctypes.c_uint8]

N_BATCH = 2048


class Context:
    """A context with one sequence."""

    def __init__(self, model: Any, job: Job) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = job.branch_tokens
        params.n_batch, params.n_ubatch = N_BATCH, 512
        params.n_seq_max = 1
        params.kv_unified = True
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.n_threads = params.n_threads_batch = job.threads
        self._context: Any = llama_cpp.llama_init_from_model(model, params)
        if not self._context:
            raise RuntimeError("no context")

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        llama_cpp.llama_free(self._context)

    def decode(self, tokens: Sequence[int]) -> None:
        """Append tokens to the sequence."""
        for i in range(0, len(tokens), N_BATCH):
            part = tokens[i : i + N_BATCH]
            array = (llama_cpp.llama_token * len(part))(*part)
            batch = llama_cpp.llama_batch_get_one(array, len(part))
            if llama_cpp.llama_decode(self._context, batch) != 0:
                raise RuntimeError("llama_decode failed")

    def generate(self, count: int) -> list[int]:
        """Generate greedily."""
        greedy = llama_cpp.llama_sampler_init_greedy()
        answer: list[int] = []
        while True:
            answer.append(llama_cpp.llama_sampler_sample(greedy, self._context, -1))
            if len(answer) == count:
                break
            self.decode(answer[-1:])
        llama_cpp.llama_sampler_free(greedy)
        return answer

    def export_state(self) -> State:
        size = int(llama_cpp.llama_state_seq_get_size(self._context, 0))
        state = (ctypes.c_uint8 * size)()
        if llama_cpp.llama_state_seq_get_data(self._context, state, size, 0) != size:
            raise RuntimeError("llama_state_seq_get_data failed")
        return state

    def import_state(self, state: State) -> None:
        if llama_cpp.llama_state_seq_set_data(self._context, state, len(state), 0) != len(state):
            raise RuntimeError("llama_state_seq_set_data failed")


def measure(job: Job) -> Iterator[Found]:
    llama = llama_cpp.Llama(job.model_path, n_ctx=64, n_threads=job.threads, verbose=False)
    next(llama.generate([0], temp=0.0))  # brings the weights into memory
    model = llama.model
    state: State | None = None
    for name, questions in (("first", job.questions), ("next", job.more_questions)):
        start = time.perf_counter()
        prompts = [prompt_tokens(llama, messages(job.document, question)) for question in questions]
        prefilled = sum(len(prompt) - job.prefix for prompt in prompts)
        if state is None:
            with Context(model, job) as context:
                context.decode(prompts[0][: job.prefix])
                state = context.export_state()
            prefilled += job.prefix
        generated = sum(len(answer(model, job, state, prompt)) for prompt in prompts)
        yield Found(name, time.perf_counter() - start, prefilled, generated)


def answer(model: Any, job: Job, state: State, prompt: list[int]) -> list[int]:
    """Run one branch: what is of its own, after the document's state."""
    with Context(model, job) as context:
        context.import_state(state)
        context.decode(prompt[job.prefix :])
        return context.generate(job.generate)


if __name__ == "__main__":
    serve(measure)
