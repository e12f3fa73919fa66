"""The numbers of a report: what each call computed, and what they add up to."""

from __future__ import annotations

import math
from dataclasses import dataclass

PAGE = 64
"""Tokens in a page: what a fork copies at most, less one."""


@dataclass(frozen=True, slots=True)
class ReportedCall:
    """One call of the model, or one prefill.

    Attributes:
        node: The graph's node, after those of the graphs around it ("outer/inner"); "" outside.
        branch_name: The branch's name, after those of the branches around it, if a `ForkNode`
            called; else "".
        kind: "answer" or "prefill".
        model: The model's name.
        branch_id: The engine's number of it.
        parent_id: Id of the call whose tokens it was forked from; None if of none.
        prompt_tokens: Tokens of the prompt.
        forked_tokens: How many of these came with a fork.
        prefilled_tokens: Tokens computed instead.
        generated_tokens: Tokens generated.
        ended_ms: When it ended, in milliseconds from the report's beginning.
        wait_ms: Milliseconds from its submission until it had a sequence.
        prefill_ms: From then until its first token.
        decode_ms: From its first token to its last.
        cell_bytes: Bytes of the KV cache that a token takes; None: unknown (sliding windows,
            recurrent states).
        preemptions: How often it had to give up its cells.
        recomputed_tokens: Tokens that were computed again after that, at least.
        restored_tokens: How many tokens of the prompt came from the store.
        restore_ms: How long that took, in milliseconds of `prefill_ms`.
    """

    node: str
    branch_name: str
    kind: str
    model: str
    branch_id: int
    parent_id: int | None
    prompt_tokens: int
    forked_tokens: int
    prefilled_tokens: int
    generated_tokens: int
    ended_ms: float
    wait_ms: float
    prefill_ms: float
    decode_ms: float
    cell_bytes: int | None
    preemptions: int = 0
    recomputed_tokens: int = 0
    restored_tokens: int = 0
    restore_ms: float = 0.0

    @property
    def begin_ms(self) -> float:
        """When it was submitted, in milliseconds from the report's beginning."""
        return self.prefill_begin_ms - self.wait_ms

    @property
    def prefill_begin_ms(self) -> float:
        """When its prefill began, in milliseconds from the report's beginning."""
        return self.prefill_end_ms - self.prefill_ms

    @property
    def prefill_end_ms(self) -> float:
        """When its prefill ended, in milliseconds from the report's beginning."""
        return self.ended_ms - self.decode_ms


class Counts:
    """What the calls of a run computed, and what sharing saved.

    Attributes:
        calls: The calls that ended well, in the order of their ends.
    """

    def __init__(self) -> None:
        self.calls: list[ReportedCall] = []

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all answers' prompts: what would have been prefilled without sharing."""
        return sum(call.prompt_tokens for call in self.calls if call.kind == "answer")

    @property
    def prefilled_tokens(self) -> int:
        """Tokens that were prefilled."""
        return sum(call.prefilled_tokens for call in self.calls)

    @property
    def forked_tokens(self) -> int:
        """Tokens that came with forks."""
        return sum(call.forked_tokens for call in self.calls)

    @property
    def restored_tokens(self) -> int:
        """Tokens that came from the store."""
        return sum(call.restored_tokens for call in self.calls)

    @property
    def restore_ms(self) -> float:
        """How long calls waited for these, together, in milliseconds."""
        return sum(call.restore_ms for call in self.calls)

    @property
    def generated_tokens(self) -> int:
        """Tokens that were generated."""
        return sum(call.generated_tokens for call in self.calls)

    @property
    def ahead_tokens(self) -> int:
        """Tokens that were prefilled ahead: by `PrefillNode`s, whose prompts nobody answers."""
        return sum(call.prefilled_tokens for call in self.calls if call.kind == "prefill")

    @property
    def saved_tokens(self) -> int:
        """Tokens that sharing saved; below 0 if more was prefilled ahead than was used.

        That is what answers took from forks, less `ahead_tokens`, which had to be computed for it.
        """
        return self.prompt_tokens - self.prefilled_tokens

    @property
    def prefill_ms_per_token(self) -> float | None:
        """What a prefilled token took in this run, in milliseconds; None if hardly any was.

        It is the time in which some call prefilled, by the tokens that were: what is prefilled or
        decoded at the same time is computed in the same batches. Of less than a page of 64 tokens
        nothing is said: each would seem to take as long as a batch. Nor is it of servers that do
        not report their times.
        """
        if self.prefilled_tokens < PAGE:
            return None
        computed = [call for call in self.calls if call.prefilled_tokens]
        covered, end = 0.0, -math.inf
        for call in sorted(computed, key=lambda call: call.prefill_begin_ms):
            covered += max(call.prefill_end_ms - max(call.prefill_begin_ms, end), 0.0)
            end = max(end, call.prefill_end_ms)
        return covered / self.prefilled_tokens or None

    @property
    def estimated_saved_ms(self) -> float | None:
        """An estimate of the time saved: `saved_tokens` at this run's own `prefill_ms_per_token`.

        None if hardly anything was prefilled, so that nothing was measured.
        """
        rate = self.prefill_ms_per_token
        return None if rate is None else self.saved_tokens * rate

    @property
    def shared_bytes(self) -> int | None:
        """Bytes of the KV cache that forks shared instead of holding them again.

        Whole pages of 64 tokens are counted: a fork may copy the rest. None where a token's bytes
        are unknown (sliding windows, recurrent states).
        """
        total = 0
        for call in self.calls:
            tokens = call.forked_tokens - call.forked_tokens % PAGE
            if tokens:
                if call.cell_bytes is None:
                    return None
                total += tokens * call.cell_bytes
        return total

    @property
    def preemptions(self) -> int:
        """How often calls had to give up their cells, since the pool was too small."""
        return sum(call.preemptions for call in self.calls)

    @property
    def recomputed_tokens(self) -> int:
        """Tokens that were computed again after that; they are among `prefilled_tokens`."""
        return sum(call.recomputed_tokens for call in self.calls)

    @property
    def evictions(self) -> int:
        """How many prefixes went to make room; what needs one later prefills it again.

        They are the engine's, so that other runs at the same time have their part in it.
        """
        return 0

    @property
    def unfinished(self) -> int:
        """Calls that failed, were cancelled or still run; what they computed is not counted."""
        return 0

    @property
    def cancelled(self) -> int:
        """How many of these were cancelled, or are of streams that were left early."""
        return 0

    @property
    def unreported(self) -> int:
        """Calls of a server that does not report what it took from its cache; not counted."""
        return 0
