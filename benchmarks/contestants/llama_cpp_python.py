"""The graph on stock llama-cpp-python: one `Llama` behind a lock, with its own prefix reuse."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

import llama_cpp
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from benchmarks.job import Found, Job, serve
from benchmarks.measures.graph import count_tokens, timed
from langgraph_kvfork.convert.messages import to_openai


class LockedLlama(BaseChatModel):
    """What everybody writes around `Llama`, which can only do one thing at a time."""

    llama: Any
    lock: Any
    max_tokens: int

    @property
    def _llm_type(self) -> str:
        return "llama-cpp-python"

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        tokens = prompt_tokens(self.llama, messages)
        answer: list[int] = []
        with self.lock:
            cached = self.llama.longest_token_prefix(self.llama._input_ids, tokens)
            # unlike what is above it, `generate` goes on after the end of a text
            for token in self.llama.generate(tokens, temp=0.0):
                answer.append(token)
                if len(answer) == self.max_tokens:
                    break
        message = AIMessage(
            self.llama.detokenize(answer).decode(errors="replace"),
            usage_metadata=UsageMetadata(
                input_tokens=len(tokens),
                output_tokens=len(answer),
                total_tokens=len(tokens) + len(answer),
                input_token_details=InputTokenDetails(cache_read=cached),
            ),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])


def make_llm(job: Job) -> LockedLlama:
    """Return the chat model, warm, and with nothing in its cache."""
    llama = llama_cpp.Llama(
        job.model_path,
        n_ctx=job.branch_tokens,
        n_batch=2048,
        n_ubatch=512,
        n_threads=job.threads,
        n_threads_batch=job.threads,
        flash_attn=True,
        verbose=False,
    )
    next(llama.generate(llama.tokenize(b"Hello"), temp=0.0))  # brings the weights into memory
    llama.reset()  # type: ignore[no-untyped-call]
    return LockedLlama(llama=llama, lock=threading.Lock(), max_tokens=job.generate)


def prompt_tokens(llama: llama_cpp.Llama, messages: list[BaseMessage]) -> list[int]:
    """Return the tokens of a prompt, by the model's own template."""
    template = llama.metadata["tokenizer.chat_template"]
    formatter = Jinja2ChatFormatter(template, eos_token="", bos_token="")
    prompt = formatter(messages=cast(Any, to_openai(messages))).prompt
    return llama.tokenize(prompt.encode(), add_bos=False, special=True)


def measure(job: Job) -> Iterator[Found]:
    llm = make_llm(job)
    for name, questions in (("first", job.questions), ("next", job.more_questions)):
        seconds, answers = timed(llm, job.document, questions)
        yield Found(name, seconds, *count_tokens(answers))


if __name__ == "__main__":
    serve(measure)
