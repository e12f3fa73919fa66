"""What to generate after a prompt."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from langgraph_kvfork.arguments import (
    Grammar,
    Keep,
    LastTokens,
    LogitBias,
    MaxTokens,
    Namespace,
    Penalty,
    Probability,
    RepeatPenalty,
    Seed,
    StopStrings,
    Switch,
    Temperature,
    TopCount,
    TopK,
    checked,
)


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
        keep: What is left for others, in the cells and in the store: True: all that was computed;
            "prefix": what others had in common with it while it ran, its own tail goes; False:
            nothing.
        namespace: Prefixes are shared only with those who give the same; None: with those who give
            none.

    Raises:
        InvalidRequestError: A value is out of its range.
    """

    max_tokens: MaxTokens = None
    temperature: Temperature = 0.8
    top_k: TopK = 40
    top_p: Probability = 0.95
    min_p: Probability = 0.05
    typical_p: Probability = 1.0
    repeat_penalty: RepeatPenalty = 1.0
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    last_n_tokens_size: LastTokens = 64
    seed: Seed = None
    logit_bias: LogitBias = field(default_factory=dict)
    stop: StopStrings = ()
    logprobs: TopCount = None
    grammar: Grammar = None
    answer_format: str | None = None
    share_prefix: Switch = True
    ignore_eos: Switch = False
    keep: Keep = True
    namespace: Namespace = None

    def __post_init__(self) -> None:
        values = checked(Request, {each.name: getattr(self, each.name) for each in fields(self)})
        if values["max_tokens"] == -1:  # as llama.cpp, Ollama and others have it
            values["max_tokens"] = None
        for name, value in values.items():
            object.__setattr__(self, name, value)
