"""Random histories, made and made smaller by hypothesis.

As a program: `python tests/proof/fuzz.py --steps 100000 [--seed N] [--kind NAME]`. It prints each
seed before it is used; the same seed makes the same histories.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import hypothesis
from alone import LLAMA, Alone
from history import History, Known
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from kinds import KINDS, Kind, load, write_models

from langgraph_kvfork.branches.request import Request

N_VOCAB = 128
GRAMMARS = ("root ::= [0-9]+", "root ::= ([a-f] [0-9])+", 'root ::= ("1" | "2f" [0-4])+')
STOPS = ("7", "3a", "00", "5f1")

prompts = st.tuples(
    st.integers(0, 7),  # which of the prompts so far it begins like; the first: none
    st.sampled_from([0, 1, 10, 63, 64, 65, 100, 128, 150, 200]),  # how much of it
    st.sampled_from([0, 1, 2, 7, 30, 55, 63, 64, 65, 90, 130]),  # tokens of its own,
    st.integers(0, 3),  # which
)
requests = st.builds(
    Request,
    max_tokens=st.sampled_from([0, 1, 2, 5, 12, 20, 40]),
    temperature=st.sampled_from([0.0, 0.0, 0.8, 2.0]),
    seed=st.integers(0, 3),
    top_k=st.sampled_from([0, 3, 40]),
    repeat_penalty=st.sampled_from([1.0, 1.0, 1.3]),
    grammar=st.sampled_from([None, None, *GRAMMARS]),
    stop=st.sampled_from([(), (), *((stop,) for stop in STOPS)]),
    logprobs=st.just(N_VOCAB),
    share_prefix=st.sampled_from([True, True, True, False]),
    ignore_eos=st.just(True),
    keep=st.sampled_from([True, True, True, False, "prefix"]),
    namespace=st.sampled_from([None, None, None, "a", "b"]),
)


SETTINGS = (
    *[(False, False, False)] * 3,
    (True, False, False),
    (True, True, False),
    (False, True, False),
    (True, False, True),
    (False, False, True),
)
"""Whether the cache is small, whether there is a store, whether branches cut off what only they
had. Only where nothing of this is so can every cost be foretold."""


class Machine(RuleBasedStateMachine):
    """Hypothesis chooses what happens in a `History`."""

    kind: Kind
    model: int
    alone: Alone
    n_rules = 0
    reached: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.history: History | None = None
        self.prompts: list[list[int]] = [[]]
        self.folder = ""

    @initialize(setting=st.sampled_from(SETTINGS))
    def begin(self, setting: tuple[bool, bool, bool]) -> None:
        small, stored, cuts = setting
        if stored and self.kind.has_store:
            self.folder = tempfile.mkdtemp(prefix="kvfork-fuzz-")
            os.chmod(self.folder, 0o700)
        self.history = History(
            self.kind, self.model, self.alone, self.folder, small=small, cuts=cuts
        )

    def _history(self) -> History:
        Machine.n_rules += 1
        assert self.history is not None
        return self.history

    # What can be drawn must not depend on the engine: a store makes it faster or slower. So a rule
    # that finds nothing to do does nothing.

    def _one(self, index: int, *, live: bool) -> Known | None:
        assert self.history is not None
        among = self.history.live if live else list(self.history.branches.values())
        return among[index % len(among)] if among else None

    @rule(prompt=prompts, request=requests, run_id=st.integers(0, 2))
    def submit(self, prompt: tuple[int, int, int, int], request: Request, run_id: int) -> None:
        self._submit(prompt, request, run_id)

    @rule(prompt=prompts, requests=st.lists(requests, min_size=2, max_size=5))
    def fan_out(self, prompt: tuple[int, int, int, int], requests: list[Request]) -> None:
        for i, request in enumerate(requests):
            which, cut, n_own, _ = prompt
            self._submit((which, cut, n_own, i % 2), request, 0)

    def _submit(self, prompt: tuple[int, int, int, int], request: Request, run_id: int) -> None:
        history = self._history()
        if history.full:
            return
        which, cut, n_own, seed = prompt
        draw = random.Random(seed)
        own = [draw.randrange(N_VOCAB) for _ in range(n_own)]
        tokens = self.prompts[which % len(self.prompts)][:cut] + own
        tokens = tokens[:200] or [1]
        self.prompts.append(tokens)
        history.submit(tokens, request, run_id)

    @rule(n=st.integers(1, 6))
    def step(self, n: int) -> None:
        self._history().step(n)

    @rule(n=st.integers(5, 25))
    def steps(self, n: int) -> None:
        self._history().step(n)

    @rule(index=st.integers(0, 11), seed=st.sampled_from([None, 1, 2]), live=st.just(True))
    def fork(self, index: int, seed: int | None, live: bool) -> None:
        history = self._history()
        branch = self._one(index, live=live)
        if branch is not None and not history.full:
            history.fork(branch, seed)

    @rule(index=st.integers(0, 40))
    def fork_one_that_may_have_ended(self, index: int) -> None:
        self.fork(index, None, live=False)

    @rule(index=st.integers(0, 11))
    def cancel(self, index: int) -> None:
        history = self._history()
        branch = self._one(index, live=True)
        if branch is not None:
            history.cancel(branch)

    @rule(index=st.integers(0, 40), cut=st.integers(0, 12))
    def go_on_with(self, index: int, cut: int) -> None:
        """Let later prompts begin like what a branch has said."""
        self._history()
        branch = self._one(index, live=False)
        if branch is not None:
            self.prompts.append(branch.tokens[: max(1, len(branch.tokens) - cut)])

    @rule(what=st.sampled_from(["end run", "clear", "run to end"]), run_id=st.integers(1, 2))
    def tidy(self, what: str, run_id: int) -> None:
        history = self._history()
        if what == "end run":
            history.end_run(run_id)
        elif what == "clear":
            history.clear()
        else:
            history.run_to_end()

    @precondition(lambda self: self.folder)
    @rule(
        what=st.sampled_from(["save", "restart", "restart", "prune"]),
        n_bytes=st.sampled_from([0, 20_000, 100_000]),
    )
    def store(self, what: str, n_bytes: int) -> None:
        history = self._history()
        if what == "save":
            history.save()
        elif what == "restart":
            history.restart()
        else:
            history.prune(n_bytes)

    def teardown(self) -> None:
        if self.history is None:
            return
        try:
            self.history.finish()
        finally:
            Machine.reached += self.history.reached
            self.history.close()
            if self.folder:
                shutil.rmtree(self.folder)


@contextmanager
def machine_of(folder: Path, kind: Kind) -> Iterator[type[Machine]]:
    """Return the machine for a kind of memory; the folder has the models."""
    model = load(folder, kind)
    alone = Alone(model, kind.params(512, 1), batch_invariant=kind.batch_invariant)
    try:
        yield type("Machine", (Machine,), {"kind": kind, "model": model, "alone": alone})
    finally:
        alone.close()
        LLAMA.llama_model_free(model)


def run(
    machine: type[Machine], seed: int, n_histories: int, n_rules: int, *, as_it_is: bool = False
) -> None:
    """Run some histories of up to `n_rules` rules.

    Args:
        machine: Of `machine_of`.
        seed: Of the histories.
        n_histories: How many.
        n_rules: How long they are at most.
        as_it_is: Do not look for a shorter history when one has failed.

    Raises:
        AssertionError: Something is not as it ought to be; hypothesis prints a short history of it.
    """
    run_state_machine_as_test(
        hypothesis.seed(seed)(machine),
        settings=settings(
            max_examples=n_histories,
            stateful_step_count=n_rules,
            deadline=None,
            database=None,
            phases=(Phase.generate,) if as_it_is else (Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000, help="rules to run, at least")
    parser.add_argument("--seed", type=int, help="of all histories; left out: a new one")
    parser.add_argument("--kind", choices=[kind.name for kind in KINDS], help="left out: each")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="to stop after")
    parser.add_argument("--as-it-is", action="store_true", help="do not shorten what fails")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().getrandbits(32)
    kinds = [kind for kind in KINDS if options.kind in (None, kind.name)]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder))
        while Machine.n_rules < options.steps and time.monotonic() - began < options.seconds:
            for kind in kinds:
                print(f"seed {seed}, {kind.name}: ", end="", flush=True)
                before = Machine.n_rules
                with machine_of(Path(folder), kind) as machine:
                    run(machine, seed, max(3, 20 // kind.cost), 50, as_it_is=options.as_it_is)
                print(f"{Machine.n_rules - before} rules, as foretold", flush=True)
            seed += 1
    print(f"{Machine.n_rules} rules in all; {dict(Machine.reached)}")


if __name__ == "__main__":
    main()
