"""The events of a branch while it runs, and its numbers when it has ended.

A branch's events are any number of `PrefillProgress`, then a `Token` for each token, then one
`Done`. A branch that fails has no `Done`: iterating over it raises the error instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, Union

FinishReason: TypeAlias = Literal["stop", "length", "prefilled"]
"""Why a branch ended: an end-of-generation token or a stop string; `max_tokens` reached or the
context full; or `max_tokens` was 0."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and times of one branch.

    Attributes:
        branch_id: The branch's id; 0: there was none.
        prompt_tokens: Tokens of the prompt.
        forked_tokens: How many of these came with a fork.
        prefilled_tokens: Tokens computed to get the prompt (and, after a preemption, the text so
            far) into the cache.
        generated_tokens: Tokens generated.
        preemptions: How often the branch had to give up its cells.
        parent_id: Id of the branch whose sequence it was forked from; None if of none.
        wait_ms: Milliseconds from its submission until it had a sequence.
        prefill_ms: Milliseconds from then until its first token (its end, if it has none).
        decode_ms: Milliseconds from its first token to its last.
        recomputed_tokens: How many of `prefilled_tokens` had been computed before, and given up.
        wanted_n_ctx: If branches had to give up their cells while this one was there: an `n_ctx`
            with which none had; else None.
        gap_ms: The longest time between two of its tokens, in milliseconds.
        restored_tokens: How many tokens of the prompt came from the store.
        restore_ms: Milliseconds until the last of these was there; they are part of `prefill_ms`.
        cell_bytes: Bytes of the KV cache that a token takes; None where tokens do not all take the
            same (sliding windows, recurrent states), or the model's file does not say.
    """

    branch_id: int
    prompt_tokens: int
    forked_tokens: int
    prefilled_tokens: int
    generated_tokens: int
    preemptions: int
    parent_id: int | None
    wait_ms: float
    prefill_ms: float
    decode_ms: float
    recomputed_tokens: int = 0
    wanted_n_ctx: int | None = None
    gap_ms: float = 0.0
    restored_tokens: int = 0
    restore_ms: float = 0.0
    cell_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Logprob:
    """How likely a token was.

    Attributes:
        token: The token's id.
        logit: The model's output for it.
        logprob: Its log softmax over the whole vocabulary, before any sampling parameter; in nats.
    """

    token: int
    logit: float
    logprob: float


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """How much of the prompt is computed, by this branch or by the one whose prefix it waits for.

    A branch that waits while others are computed gets it again and again: about four times a
    second, unless a batch takes longer. One that gave up its cells (`Usage.preemptions`) gets it
    for its prompt anew, after its first tokens.

    Attributes:
        done: Tokens of the prompt that are in the cache.
        total: Tokens of the prompt.
    """

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Token:
    """One token was generated.

    Attributes:
        text: Text that can be shown by now: never half a character, never a part of a stop string;
            it may be empty, and then comes with a later token.
        token: The token's id.
        logprobs: The token itself, then the most likely ones; empty if they were not asked for.
    """

    text: str
    token: int
    logprobs: tuple[Logprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """A branch has ended well.

    Attributes:
        finish_reason: Why.
        usage: Its tokens and times.
    """

    finish_reason: FinishReason
    usage: Usage


# a union at run time: Python 3.10 evaluates it
Event: TypeAlias = Union[PrefillProgress, Token, Done]  # noqa: UP007
