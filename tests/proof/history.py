"""One history of an engine, and all that has to hold in it.

`History` does what it is told to: it submits, forks, cancels, steps. It writes down what each
branch says, and foretells from the rules in docs/design.md what each one costs. When a branch has
ended it is computed once more, alone, and compared; when all have, the counters are.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from alone import KVF, NATIVE, Alone, Sampling, Told, chosen
from held_engine import Ended, HeldEngine, Prefilled, Said
from kinds import N_BATCH, Kind

from langgraph_kvfork.branches.request import Request
from langgraph_kvfork.native.abi import Error, Finish, take_string

MOST_BRANCHES = 40
REACHED = ("steps", "branches_started", "forks", "evictions", "preemptions", "restored_tokens")
"""Counters that show what histories come to."""


SMALL = (256, 5)
"""Cells and sequences with which snapshots go, branches wait for room and give way."""


@dataclass
class Sequence:
    """What the cache ought to have: a running branch's tokens, or a snapshot's."""

    branch: int
    tokens: list[int]
    n_cached: int
    namespace: str | None
    shares: bool
    runs: bool = True


@dataclass
class Known:
    """What is known of a branch."""

    id: int
    told: Told
    request: Request
    n_prompt: int
    tokens: list[int]
    text: bytes = b""
    n_said: int = 0
    cancelled: bool = False
    orphan: bool = False
    seq: Sequence | None = None
    owner: Known | None = None
    n_awaited: int = 0
    n_forked: int | None = None
    ended: Ended | None = None


class History:
    """One history.

    Args:
        kind: What memory it is in.
        model: The model.
        alone: What a branch is compared with.
        small: Whether the cache is `SMALL`, not large enough for all.
        store: The folder of a store; empty: none.
        cuts: Whether branches may cut off what only they had (`keep="prefix"`). Else they keep all.
    """

    def __init__(
        self, kind: Kind, model: int, alone: Alone, store: str, *, small: bool, cuts: bool
    ) -> None:
        self.kind, self.model, self.alone, self.store = kind, model, alone, store
        self.n_ctx, self.n_seq_max = SMALL if small else kind.large
        self.branches: dict[int, Known] = {}
        self.sequences: list[Sequence] = []
        self.seen: list[tuple[str | None, list[int]]] = []
        self.reached: Counter[str] = Counter()
        self.cuts = cuts
        # nothing is cut or dropped, and no disk is faster or slower: each cost is foretold
        self.foretells = kind.forks_anywhere and not (small or store or cuts)
        self.engine = self._open()

    def _open(self) -> HeldEngine:
        os.environ["KVFORK_CHECK_STEPS"] = "1"  # each step ends with check_integrity
        params = self.kind.params(self.n_ctx, self.n_seq_max)
        return HeldEngine(
            self.model, params, batch_invariant=self.kind.batch_invariant, store=self.store
        )

    @property
    def live(self) -> list[Known]:
        return [b for b in self.branches.values() if b.ended is None]

    @property
    def full(self) -> bool:
        """Whether no branch should come in any more."""
        return len(self.branches) >= MOST_BRANCHES or len(self.live) >= 12

    #
    # what happens
    #

    def submit(self, tokens: list[int], request: Request, run_id: int) -> None:
        if request.keep == "prefix" and not self.cuts:
            request = replace(request, keep=True)
        branch = self.engine.submit(tokens, request, run_id)
        sampling = Sampling(
            request.temperature,
            request.top_k,
            request.top_p,
            request.min_p,
            request.seed or 0,
            request.repeat_penalty,
            request.grammar or "",
        )
        told = Told(list(tokens), sampling)
        self.branches[branch] = Known(branch, told, request, len(tokens), list(tokens))

    def fork(self, parent: Known, seed: int | None) -> None:
        child = self.engine.fork(parent.id, seed)
        told = replace(
            parent.told,
            tokens=list(parent.told.tokens),
            rows=list(parent.told.rows),
            seeds=list(parent.told.seeds),
        )
        if seed is not None:
            told.seeds.append((len(told.tokens), seed))
        most = parent.request.max_tokens
        assert most is not None
        known = Known(
            child,
            told,
            replace(parent.request, max_tokens=most - parent.n_said),
            len(parent.tokens),
            list(parent.tokens),
            text=parent.text,
            orphan=parent.ended is not None or parent.cancelled or parent.orphan,
        )
        self.branches[child] = known

    def cancel(self, branch: Known) -> None:
        self.engine.cancel(branch.id)
        if branch.ended is None and not branch.cancelled and not branch.orphan:
            branch.cancelled = True
            self._leave(branch)

    def end_run(self, run_id: int) -> None:
        self.engine.end_run(run_id)

    def clear(self) -> None:
        self.engine.clear()
        self.sequences = [s for s in self.sequences if s.runs]

    def step(self, n: int = 1) -> None:
        for _ in range(n):
            self._admit()
            took = self.engine.step()
            for event in self.engine.events():
                self._note(event)
            if not took:
                return

    def run_to_end(self) -> None:
        for _ in range(20000):
            if not self.live and not self.engine.step():
                break
            self.step()
        assert not self.live, "branches do not end"
        self._check_counts()

    def restart(self) -> None:
        """Close the engine when all is in the store, and go on with another one."""
        self.run_to_end()
        self.engine.save()
        self.engine.check()
        self._sum_up()
        self.close()
        self.sequences.clear()
        self.branches.clear()
        self.engine = self._open()

    def save(self) -> None:
        """Write all to the store; what runs goes on meanwhile."""
        self.engine.save()
        for event in self.engine.events():
            self._note(event)

    def prune(self, max_bytes: int) -> None:
        """Remove files of the store, whoever reads them."""
        take_string(NATIVE, KVF.kvf_store_prune(self.store.encode(), max_bytes))

    def finish(self) -> None:
        """Let all end, and see that nothing is left."""
        self.run_to_end()
        self._sum_up()
        self.clear()
        stats = self.engine.stats()
        assert (stats.cells_used, stats.snapshots) == (0, 0), "a cell or a snapshot is left"
        for part in stats.parts[: stats.n_parts]:
            assert part.window or (part.cells_used, part.pages_empty) == (0, part.pages_total)

    def _sum_up(self) -> None:
        stats = self.engine.stats()
        self.reached.update({name: getattr(stats, name) for name in REACHED})

    def close(self) -> None:
        self.engine.close()

    #
    # what the engine ought to do
    #

    def _admit(self) -> None:
        """Foretell which waiting branches get a sequence in the next step, and what they fork."""
        if not self.foretells:
            return
        for branch in self.live:
            if branch.owner is not None and (
                branch.owner.seq is None
                or not branch.owner.seq.runs
                or branch.owner.seq.n_cached >= branch.n_awaited
            ):
                branch.owner = None
        for branch in self.live:
            if branch.seq or branch.owner or branch.orphan or branch.cancelled:
                continue
            if sum(s.runs for s in self.sequences) >= N_BATCH:
                break
            n_max = len(branch.tokens) - (branch.request.max_tokens != 0)
            n_forked = n_awaited = 0
            for sequence in self.sequences if branch.request.share_prefix else ():
                if sequence.namespace != branch.request.namespace or not sequence.shares:
                    continue
                n = min(n_max, _n_common(sequence.tokens, branch.tokens))
                n_ready = min(n, sequence.n_cached)
                n_forked = max(n_forked, n_ready)
                if n_ready < n and n > n_awaited:
                    n_awaited, owner = n, sequence.branch
            if n_awaited > n_forked:
                branch.owner, branch.n_awaited = self.branches[owner], n_awaited
                continue
            branch.n_forked = n_forked
            if branch.request.max_tokens == 0 and n_forked == len(branch.tokens):
                continue  # it ends at once, without a sequence
            request = branch.request
            branch.seq = Sequence(
                branch.id, branch.tokens, n_forked, request.namespace, request.share_prefix
            )
            self.sequences.append(branch.seq)

    def _leave(self, branch: Known) -> None:
        """Turn an ended branch's sequence into a snapshot, if it is to stay."""
        if branch.seq is None:
            return
        branch.seq.runs = False
        n = branch.seq.n_cached
        branch.seq.tokens = branch.tokens[:n]
        if not branch.request.share_prefix or branch.request.keep is False or n == 0:
            self.sequences.remove(branch.seq)

    #
    # what it does
    #

    def _note(self, event: Prefilled | Said | Ended) -> None:
        branch = self.branches[event.branch]
        assert branch.ended is None, "an event after the last one"
        if isinstance(event, Prefilled):
            if branch.seq is not None:
                branch.seq.n_cached = event.n_done
        elif isinstance(event, Said):
            branch.tokens.append(event.token)
            branch.told.tokens.append(event.token)
            branch.told.rows.append(event.row)
            branch.text += event.text
            branch.n_said += 1
            if branch.seq is not None:
                branch.seq.n_cached = len(branch.tokens) - 1
        else:
            branch.ended = event
            if not branch.cancelled:
                self._leave(branch)
            self._check_end(branch, event)
            self.seen.append((branch.request.namespace, list(branch.tokens)))

    def _check_end(self, branch: Known, end: Ended) -> None:
        usage, request = end.usage, branch.request
        if branch.orphan:
            assert end.error == Error.UNKNOWN, "the fork of a branch that has ended goes on"
            return
        if end.finish == Finish.ERROR:
            raise AssertionError(f"a branch failed: {end.text}")
        assert end.finish != Finish.CANCELLED or branch.cancelled
        assert usage.n_prompt == branch.n_prompt
        assert usage.n_generated == branch.n_said
        if end.finish == Finish.LENGTH:
            assert branch.n_said == request.max_tokens or len(branch.tokens) > self.n_ctx
        if end.finish == Finish.PREFILLED:
            assert request.max_tokens == 0
        self._check_costs(branch, end)
        self._check_text(branch, end)
        self._check_logits(branch)

    def _check_costs(self, branch: Known, end: Ended) -> None:
        usage = end.usage
        if not branch.request.share_prefix:
            assert usage.n_forked == usage.n_restored == 0, "one that does not share has shared"
        is_through = end.finish in (Finish.LENGTH, Finish.STOP, Finish.PREFILLED)
        if is_through and usage.n_preempted == 0:
            n = usage.n_forked + usage.n_restored + usage.n_prefilled
            assert n == usage.n_prompt, f"{n} of {usage.n_prompt} tokens are accounted for"
            assert usage.n_recomputed == 0
        if is_through and branch.request.max_tokens != 0:
            assert usage.n_prefilled > 0, "the logits of the last token are not computed"
        if self.foretells:
            assert usage.n_preempted == usage.n_restored == 0
            if is_through:
                assert usage.n_forked == branch.n_forked, (
                    f"branch {branch.id} forked {usage.n_forked} tokens, not {branch.n_forked}"
                )
        # whatever it is, it is of its namespace
        others = [
            b.tokens
            for b in self.branches.values()
            if b is not branch and b.request.namespace == branch.request.namespace
        ]
        others += [
            tokens for namespace, tokens in self.seen if namespace == branch.request.namespace
        ]
        most = max((_n_common(t, branch.tokens) for t in others), default=0)
        assert max(usage.n_forked, usage.n_restored) <= most, (
            f"branch {branch.id} of {usage.n_prompt} tokens has forked {usage.n_forked} and "
            f"restored {usage.n_restored}, gave way {usage.n_preempted} times, and has {most} "
            "in common with what there ever was"
        )

    def _check_text(self, branch: Known, end: Ended) -> None:
        whole = "".join(f"{token:x}" for token in branch.told.tokens)
        stops = [whole.find(stop) for stop in branch.request.stop if stop in whole]
        text = branch.text.decode()
        if stops:
            assert end.finish == Finish.STOP
            assert text == whole[: min(stops)], "the text does not end at the stop string"
        elif end.finish == Finish.LENGTH:
            assert text == whole
        else:
            assert whole.startswith(text)
            assert end.finish != Finish.STOP

    def _check_logits(self, branch: Known) -> None:
        told = branch.told
        assert chosen(self.model, told) == told.tokens, "another token is chosen from these logits"
        expected = self.alone.logits(told.prompt, told.tokens)
        for i, (row, right) in enumerate(zip(told.rows, expected, strict=True)):
            if self.kind.batch_invariant:
                assert np.array_equal(row, right), f"token {i} of branch {branch.id}: other bits"
            else:
                error = float(((row - right) ** 2).sum() / (right**2).sum())
                assert error <= self.kind.error, (
                    f"token {i} of branch {branch.id}: the logits are {error:.1e} off"
                )

    def _check_counts(self) -> None:
        """Compare the counters with what the branches have said of themselves."""
        self.engine.check()
        stats = self.engine.stats()
        usages = [b.ended.usage for b in self.branches.values() if b.ended and not b.orphan]
        assert stats.branches_running == stats.branches_waiting == 0
        for counter, name in (
            ("prefilled_tokens", "n_prefilled"),
            ("generated_tokens", "n_generated"),
            ("recomputed_tokens", "n_recomputed"),
            ("preemptions", "n_preempted"),
        ):
            assert getattr(stats, counter) == sum(getattr(u, name) for u in usages), counter
        if stats.preemptions == 0:
            assert stats.forked_tokens == sum(u.n_forked for u in usages)
            assert stats.restored_tokens == sum(u.n_restored for u in usages)
        if self.foretells:
            assert stats.evictions == 0
            assert stats.snapshots == len(self.sequences)
            texts = [s.tokens for s in self.sequences]
            least = len({tuple(text[:i]) for text in texts for i in range(1, len(text) + 1)})
            most = sum(map(len, texts))
            assert least <= stats.cells_used <= most


def _n_common(a: list[int], b: list[int]) -> int:
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n
