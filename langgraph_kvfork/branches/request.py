"""What to generate after a prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from langgraph_kvfork.checks import check_integer, check_number, is_c_text, is_number, require

RANDOM_SEED = 0xFFFFFFFF
"""`LLAMA_DEFAULT_SEED`: a random one; for a fork: keep the random state."""


@dataclass(frozen=True, slots=True)
class Request:
    """How to go on after a prompt. Names and defaults are llama-cpp-python's.

    Attributes:
        max_tokens: Most tokens to generate; 0: prefill only; None or -1: until the context is full.
        temperature: Randomness; 0: greedy, always the most likely token.
        top_k: Sample among this many most likely tokens; 0: off.
        top_p: Sample among the most likely tokens whose probabilities add up to this; 1: off.
        min_p: Leave out tokens less likely than this share of the most likely one; 0: off.
        typical_p: Locally typical sampling; 1: off.
        repeat_penalty: Divides the logits of tokens that occurred lately; 1: off.
        frequency_penalty: Subtracted from a token's logit for each time that it occurred; 0: off.
        presence_penalty: Subtracted from a token's logit if it occurred; 0: off.
        last_n_tokens_size: Tokens that the penalties look back on; 0: none.
        seed: 0 to 4,294,967,294; None or -1: a random one.
        logit_bias: Added to logits, by token id, from -1e6 to 1e6; `-inf` forbids a token.
        stop: Strings that end the text and are not part of it; up to 256, of up to 4,096 bytes.
        logprobs: None: no log-probabilities; k: the chosen token's and the k most likely ones'.
        grammar: GBNF with the rule `root`, which the text will follow; None: free text.
        answer_format: `RenderedPrompt.answer_format` of the prompt; None: like anything.
        share_prefix: Fork from what is cached, and leave what is computed to others.
        ignore_eos: Go on after an end-of-generation token, unless the grammar ends there.

    Raises:
        InvalidRequestError: A value is out of its range.
    """

    max_tokens: int | None = None
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    last_n_tokens_size: int = 64
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    stop: Sequence[str] = ()
    logprobs: int | None = None
    grammar: str | None = None
    answer_format: str | None = None
    share_prefix: bool = True
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            check_integer(
                "max_tokens",
                self.max_tokens,
                "give a count from 0 on, or None or -1 to go on until the context is full",
                low=-1,
            )
            if self.max_tokens == -1:  # as llama.cpp, Ollama and others have it
                object.__setattr__(self, "max_tokens", None)
        check_number("temperature", self.temperature, "give 0 (greedy) or more", low=0)
        check_integer("top_k", self.top_k, "give 1 or more, or 0 for off", low=-1)
        for name in ("top_p", "min_p", "typical_p"):
            check_number(name, getattr(self, name), "give 0 to 1", low=0, high=1)
        check_number(
            "repeat_penalty", self.repeat_penalty, "give a number above 0, or 1 for off", low=1e-6
        )
        for name in ("frequency_penalty", "presence_penalty"):
            check_number(name, getattr(self, name), "give a finite number, or 0 for off")
        check_integer(
            "last_n_tokens_size", self.last_n_tokens_size, "give a count from 0 on", low=0
        )
        if self.seed is not None:
            remedy = f"give 0 to {RANDOM_SEED - 1}, or None for a random one"
            check_integer("seed", self.seed, remedy, low=-1, high=RANDOM_SEED - 1)
        if self.logprobs is not None:
            check_integer("logprobs", self.logprobs, "give a count from 0 on, or None", low=0)
        for name in ("share_prefix", "ignore_eos"):
            require(
                isinstance(getattr(self, name), bool),
                name,
                getattr(self, name),
                "give True or False",
            )
        require(
            _are_stop_strings(self.stop),
            "stop",
            self.stop,
            "give a list of strings, none of them empty",
        )
        require(
            _are_biases(self.logit_bias),
            "logit_bias",
            self.logit_bias,
            "give a dict from token ids to the numbers to add to their logits",
        )
        require(
            self.grammar is None or (is_c_text(self.grammar) and bool(self.grammar.strip())),
            "grammar",
            self.grammar,
            "give GBNF text with a rule named root, or None for free text",
        )


def _are_stop_strings(value: object) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and all(is_c_text(text) and text for text in value)
    )


def _are_biases(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(token, int)
        and not isinstance(token, bool)
        and 0 <= token < 2**31
        and is_number(bias)
        and not math.isnan(bias)
        for token, bias in value.items()
    )
