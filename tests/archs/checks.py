"""Checks of forks on one model after the other; run as a program: `checks.py MODEL.gguf ...`.

Prints a line of JSON when it begins with a model and one with what each check found. A check finds

    exact     logits are bit for bit those of a context that holds only this sequence
    placed    so they are if that context leaves the same cells between the tokens to another
              sequence: where attention is a plain sum over cells, its last bits depend on that
    close     so they are but for an error of 1e-8: a sum in another order
    refused   the fork was refused and its destination is empty
    ok        the check is not about logits, and all is well
    none      the model does not have what the check is about

or says what is wrong. Everything is compared like for like: the same tokens in the same batches.
"""

from __future__ import annotations

import ctypes
import json
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bindings
import numpy as np
from bindings import C, Context, Model

from langgraph_kvfork.engine.model_facts import cell_bytes
from langgraph_kvfork.native import abi

N = 40
"""Tokens of a prompt, fed in one batch."""
STEPS = 3
"""Tokens that are decoded one by one and compared."""
GAP = 10
"""How far a source moves on before it is forked further back."""


def tokens(model: Model, seed: int, n: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(5, min(model.n_vocab, 120)) for _ in range(n)]


def steps(context: Context, seq: int, following: Sequence[int]) -> list[np.ndarray]:
    return [context.decode(seq, [token]) for token in following]


def same(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> bool:
    if not all(np.isfinite(logits).all() for logits in (*a, *b)):
        raise RuntimeError("logits that are not numbers")
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def error(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    """Normalized mean squared error."""
    x, y = np.array(a, dtype=np.float64), np.array(b, dtype=np.float64)
    return float(((x - y) ** 2).sum() / max((y**2).sum(), 1e-30))


def close(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> str:
    if same(a, b):
        return "exact"
    worst_error = max(error([x], [y]) for x, y in zip(a, b, strict=True))
    return "close" if worst_error < 1e-8 else f"wrong: error {worst_error:.1e}"


class Alone:
    """What a sequence gives in a context of its own."""

    def __init__(self, model: Model, **parameters: Any) -> None:
        self.model = model
        self.parameters = parameters

    def after(
        self,
        batches: Sequence[Sequence[int]],
        following: Sequence[int],
        *,
        cut: int | None = None,
        gap: int = 0,
    ) -> list[np.ndarray]:
        """Feed batches, go back to `cut`, leave a gap of cells, and take the steps that follow."""
        with Context(self.model, **self.parameters) as context:
            for batch in batches:
                context.decode(0, batch)
            if cut is not None:
                context.cut(0, cut)
            if gap:
                context.decode(context.n_seq_max - 1, tokens(self.model, 99, gap))
            return steps(context, 0, following)

    def verdict(
        self, found: list[np.ndarray], gap: int, *what: Any, n_skip: int = 0, **how: Any
    ) -> str:
        expected = self.after(*what, **how)[n_skip:]
        if same(found, expected):
            return "exact"
        if gap and same(found, self.after(*what, gap=gap, **how)):
            return "placed"
        return f"wrong: error {error(found, expected):.1e}"


def worst(*verdicts: str) -> str:
    order = ["exact", "close", "placed", "refused"]
    return max(verdicts, key=lambda v: order.index(v) if v in order else len(order))


def check_whole(model: Model, **parameters: Any) -> str:
    """Fork a whole sequence; go on with the fork, then with the source, then with a second fork."""
    prompt = tokens(model, 1, N)
    a, b, c = (tokens(model, seed, STEPS) for seed in (2, 3, 4))
    alone = Alone(model, **parameters)
    with Context(model, **parameters) as context:
        context.decode(0, prompt)
        for dst in (1, 2):
            if context.fork_pos(0) != N or not context.fork(0, dst):
                return "refused" if context.pos_max(dst) == -1 else "wrong: refused, not empty"
            if context.pos_max(dst) != N - 1:
                return "wrong: a fork of another length"
        found = [steps(context, 1, a), steps(context, 0, b), steps(context, 2, c)]
    shared = parameters.get("unified", True)
    return worst(
        alone.verdict(found[0], 0, [prompt], a),
        alone.verdict(found[1], STEPS * shared, [prompt], b),
        alone.verdict(found[2], 2 * STEPS * shared, [prompt], c),
    )


def check_earlier(model: Model, n: int, **parameters: Any) -> str:
    """Fork at an earlier position of a sequence that has moved on."""
    prompt, moved = tokens(model, 1, N), tokens(model, 5, GAP)
    a, b = tokens(model, 2, STEPS), tokens(model, 3, STEPS)
    alone = Alone(model, **parameters)
    with Context(model, **parameters) as context:
        context.decode(0, prompt)
        context.decode(0, moved)
        context.decode(1, moved)  # to be dropped by the fork
        possible = context.fork_pos(0, n)
        done = context.fork(0, 1, n)
        if done != (possible == n):
            return f"wrong: fork is {done} at {n} where fork_pos is {possible}"
        if context.pos_max(1) != (n - 1 if done else -1):
            return f"wrong: fork is {done} and the destination ends at {context.pos_max(1)}"
        if not done and context.used != context.own(0):
            return "wrong: a refused fork holds cells"
        forked = steps(context, 1, a) if done else []
        source = steps(context, 0, b)
        # and the source has not been changed
        with Context(model, **parameters) as undisturbed:
            undisturbed.decode(0, prompt)
            undisturbed.decode(0, moved)
            if parameters.get("unified", True) and not model.is_recurrent:
                undisturbed.decode(1, moved)
                undisturbed.drop(1)
                if done:
                    undisturbed.decode(1, a)
            if not same(source, steps(undisturbed, 0, b)):
                return "wrong: the source was changed"
    if not done:
        return "refused"
    gap = GAP + N - n if parameters.get("unified", True) else 0
    return alone.verdict(forked, gap, [prompt], a, cut=n if n < N else None)


def check_tree(model: Model, *, holes: bool = False, **parameters: Any) -> str:
    """Fork, go on and drop at random; what is left is always what it would be alone.

    With `holes`, cells that come free in the middle are used again, so that a sequence's cells are
    not in its order any more. Then only sums of float32 can be compared, and not their last bits.
    """
    if model.n_swa and not holes and parameters.get("unified", True):
        return "none"  # a fork shares the window only: its cells are not those of the other parts
    draw = random.Random(7)
    n_seq = 8
    filler = n_seq - 1
    parameters |= {"n_seq_max": n_seq, "n_ctx": 1024, "flash_attn": not holes}
    prompt = tokens(model, 1, N)
    alone = Alone(model, **parameters)
    found: list[tuple[tuple[int, ...], np.ndarray]] = []
    with Context(model, **parameters) as context:
        context.decode(0, prompt)
        live: dict[int, tuple[int, ...]] = {0: ()}
        for _ in range(40):
            vacant = [seq for seq in range(filler) if seq not in live]
            action = draw.choice(["fork", "fork", "step", "step", "step", "drop"])
            src = draw.choice(sorted(live))
            if action == "fork" and vacant:
                dst = draw.choice(vacant)
                if not context.fork(src, dst):
                    return "wrong: a whole fork was refused"
                live[dst] = live[src]
            elif action == "drop" and len(live) > 1:
                used, own = context.used, context.own(src)
                context.drop(src)
                if context.used != used - own or context.pos_max(src) != -1:
                    return "wrong: a drop frees other cells than the sequence's own"
                del live[src]
                if not (holes or model.is_recurrent) and own:
                    context.decode(filler, tokens(model, 98, own))
            elif action == "step":
                live[src] += (draw.randrange(5, min(model.n_vocab, 120)),)
                found.append((live[src], context.decode(src, live[src][-1:])))
        context.drop(filler)
        for seq in draw.sample(sorted(live), len(live)):
            context.drop(seq)
        if context.used:
            return f"wrong: {context.used} cells in use when all is dropped"
        if context.free != context.cells:
            return "wrong: not all cells are free when all is dropped"
    # the histories are a tree: replay each path to a leaf once
    histories = {history for history, _ in found}
    leaves = [h for h in histories if not any(g != h and g[: len(h)] == h for g in histories)]
    expected: dict[tuple[int, ...], np.ndarray] = {}
    for leaf in sorted(leaves):
        for i, logits in enumerate(alone.after([prompt], leaf), 1):
            expected[leaf[:i]] = logits
    return close([logits for _, logits in found], [expected[history] for history, _ in found])


def check_at_once(model: Model, **parameters: Any) -> str:
    """Fork and drop one of the two before anything is decoded, which is when copies are made."""
    prompt, other = tokens(model, 1, N), tokens(model, 6, N)
    a, b = tokens(model, 2, STEPS), tokens(model, 3, STEPS)
    # what a fork leaves of the window's cells to the source comes free in the middle
    parameters |= {"flash_attn": not (model.n_swa and parameters.get("unified", True))}
    alone = Alone(model, **parameters)
    with Context(model, **parameters) as context:
        context.decode(0, prompt)
        if not context.fork(0, 1) or not context.fork(1, 2):
            return "wrong: a whole fork was refused"
        copied = context.used == 3 * N
        context.drop(0)
        context.drop(1)
        found = [steps(context, 2, a)]
        if copied:
            # what was copied into a dropped sequence is not seen by the next one
            context.decode(1, other)
            found += [steps(context, 1, b)]
    expected = [alone.after([prompt], a), alone.after([other], b)]
    return worst(*(close(*pair) for pair in zip(found, expected[: len(found)], strict=True)))


def check_bad_input(model: Model, **parameters: Any) -> str:
    """Nothing that a caller passes aborts, succeeds, or harms a sequence."""
    prompt, a = tokens(model, 1, N), tokens(model, 2, STEPS)
    for function, arguments in (
        (bindings.seq_fork, (0, 1, -1)),
        (bindings.seq_fork_pos, (0, -1)),
        (bindings.seq_drop, (0,)),
        (bindings.n_cells, ()),
        (bindings.n_cells_used, ()),
        (bindings.seq_n_cells_own, (0,)),
        (bindings.n_parts, ()),
    ):
        if function(None, *arguments):
            return f"wrong: {function.__name__} of no memory"
    with Context(model, **parameters) as context:
        if not context.memory:
            return "ok"
        context.decode(0, prompt)
        used = context.used
        outside = (-(2**31), -2, -1, context.n_seq_max, 255, 256, 1000, 2**31 - 1)
        for seq in outside:
            context.drop(seq)
            if context.fork(0, seq) or context.fork(seq, 1) or context.fork(seq, seq):
                return f"wrong: a fork with sequence {seq}"
            if context.fork(seq, 1, 0) or context.fork(0, seq, 0) or context.fork_pos(seq):
                return f"wrong: a fork with sequence {seq}"
            if context.own(seq):
                return f"wrong: cells of sequence {seq}"
            none = (ctypes.c_uint64 * 1)()
            bindings.part_seq_cells(context.memory, 0, seq, none)
            bindings.part_seq_cells(context.memory, 9, 0, none)
            if none[0] or context.part(9).n_cells:
                return f"wrong: cells of a part's sequence {seq}"
        for n in (N + 1, 10_000, 2**31 - 1):
            if context.fork(0, 1, n) or context.pos_max(1) != -1:
                return f"wrong: a fork at {n} of {N}"
            if context.fork_pos(0, n) != N:
                return f"wrong: fork_pos at {n} of {N}"
        if context.fork(2, 1, 1) or context.fork_pos(2) != 0:
            return "wrong: a fork of an empty sequence at 1"
        if not context.fork(2, 1) or not context.fork(0, 1, 0) or context.pos_max(1) != -1:
            return "wrong: an empty fork"
        if not context.fork(0, 0) or not context.fork(0, 0, N) or context.fork(0, 0, N - 1):
            return "wrong: a fork onto itself"
        if context.used != used or context.pos_max(0) != N - 1:
            return "wrong: the sequence was changed"
        return Alone(model, **parameters).verdict(steps(context, 0, a), 0, [prompt], a)


def check_cells(model: Model, **parameters: Any) -> str:
    """The counters, before and after each operation."""
    with Context(model, **parameters) as context:

        def counted() -> tuple[int, ...]:
            return (context.used, context.own(0), context.own(1))

        total = context.cells
        if not total or context.free != total or counted() != (0, 0, 0):
            return "wrong: cells of an empty context"
        context.decode(0, tokens(model, 1, N))
        n = 1 if model.is_recurrent else N
        seen = [counted()]
        forked = context.fork(0, 1)
        seen += [counted()]
        context.decode(1, [7])
        seen += [counted()]
        if context.cells != total or context.free != total - context.used:
            return "wrong: used + free is not the total"
        context.drop(0)
        seen += [counted()]
        context.drop(1)
        seen += [counted()]
    more = 0 if model.is_recurrent else 1
    shared = [(n, n, 0), (n, 0, 0), (n + 1, 1 - more, 1), (n + more, 0, n + more), (0, 0, 0)]
    if model.is_recurrent:
        shared[2] = (2, 1, 1)
    copied = [(n, n, 0), (2 * n, n, n), (2 * n + 1, n, n + 1), (n + 1, 0, n + 1), (0, 0, 0)]
    if not forked:
        return "refused"
    if seen == shared:
        return "ok"
    return "copied" if seen == copied else f"wrong: (used, own 0, own 1) are {seen}"


def check_cell_bytes(model: Model) -> str:
    """What a report takes a token's bytes for, against how a sequence's saved state grows."""
    f16 = C.GGML_TYPE_F16
    known = cell_bytes(abi.native(), model.handle, f16, f16)
    if known is None:
        return "none"
    sizes = []
    with Context(model) as context:
        for seed in (1, 2):
            context.decode(0, tokens(model, seed, N))
            sizes.append(C.llama_state_seq_get_size(context.handle, 0))
    # beside keys and values, a cell's position (or three, with M-RoPE) and its sequences are saved
    beside = (sizes[1] - sizes[0]) / N - known
    return "ok" if 0 < beside <= 24 else f"wrong: {known} bytes, {beside:g} too few"


def check_rollback(model: Model, **parameters: Any) -> str:
    """Recurrent states that can be rolled back by some tokens, which happens at the next decode."""
    parameters |= {"n_rs_seq": 3}
    batches = [tokens(model, 1, N), tokens(model, 2, 6)]
    n = N + 6 - 2
    token, a = tokens(model, 3, 1), tokens(model, 4, STEPS)
    with Context(model, **parameters) as context:
        if not context.n_rs_seq:
            return "none"
        for batch in batches:
            context.decode(0, batch)
        if not context.fork(0, 1):
            return "wrong: a whole fork was refused"
        if context.try_cut(0, n) and context.pos_max(1) != N + 6 - 1:
            return "wrong: a fork was cut with its source"
        context.drop(1)
        if context.length[0] != n:
            context.cut(0, n)
        if context.fork_pos(0) or context.fork(0, 1) or context.pos_max(1) != -1:
            return "wrong: a fork with a rollback pending"
        context.decode(0, token)
        if not context.fork(0, 1):
            return "wrong: a whole fork was refused"
        found = steps(context, 1, a)
    return Alone(model, **parameters).verdict(found, 0, batches, token + a, cut=n, n_skip=1)


def check_window(model: Model) -> str:
    """Fork where the window has moved on: refused before it, exact within and at the end."""
    if not model.n_swa:
        return "none"
    parameters: dict[str, Any] = {"n_ctx": 1024, "n_batch": 32, "swa_full": False}
    # the window's cache has 256 cells: the last batches overwrite the first
    size = 256
    batches = [tokens(model, seed, 32) for seed in range((size + 96) // 32)]
    n = sum(map(len, batches))
    back = 5
    a, b = tokens(model, 2, STEPS), tokens(model, 3, STEPS)
    alone = Alone(model, **parameters)
    with Context(model, **parameters) as context:
        for batch in batches:
            context.decode(0, batch)
        if context.pos_min(0) == 0:
            return "none"  # all is held
        if context.fork(0, 1, N) or context.pos_max(1) != -1 or context.fork_pos(0, N):
            return "wrong: a fork before the window"
        if not context.fork(0, 2):
            return "wrong: a whole fork was refused"
        back_done = context.fork(0, 1, n - back)
        found_back = steps(context, 1, a) if back_done else []
        found = steps(context, 2, b)
    return worst(
        alone.verdict(found, 0, batches, b),
        alone.verdict(found_back, 0, batches, a, cut=n - back) if back_done else "refused",
    )


def check_window_room(model: Model) -> str:
    """Forks of forks never hold more of the window's cells than upstream reckons with."""
    if not model.n_swa:
        return "none"
    n_seq = 7  # 7 windows of 32 and a batch fill the 256 cells
    parameters: dict[str, Any] = {"n_ctx": 4096, "n_batch": 32, "n_seq_max": n_seq}
    parameters |= {"swa_full": False, "flash_attn": False}
    alone = Alone(model, **parameters)
    with Context(model, **parameters) as context:
        histories = {0: [tokens(model, 1, 32)]}
        context.decode(0, histories[0][0])
        for turn in range(2 * n_seq):
            dst = 1 + turn % (n_seq - 1)
            if not context.fork(0, dst):
                return "refused"
            histories[dst] = list(histories[0])
            for seq, history in sorted(histories.items()):
                history.append(tokens(model, 100 * turn + seq, 20))
                context.decode(seq, history[-1])
        if context.free > context.cells - context.used:
            return "wrong: more cells are free than are not used"
        found = [context.decode(seq, [7]) for seq in histories]
    return close(found, [alone.after(history, [7])[0] for history in histories.values()])


CHECKS: dict[str, Callable[[Model], str]] = {
    "whole": check_whole,
    "whole, streams": lambda m: check_whole(m, unified=False),
    "at once": check_at_once,
    "at once, streams": lambda m: check_at_once(m, unified=False),
    "between batches": lambda m: check_earlier(m, N),
    "within a batch": lambda m: check_earlier(m, N - 15),
    "first token": lambda m: check_earlier(m, 1),
    "between batches, streams": lambda m: check_earlier(m, N, unified=False),
    "within a batch, streams": lambda m: check_earlier(m, N - 15, unified=False),
    "tree": check_tree,
    "tree, streams": lambda m: check_tree(m, unified=False),
    "tree, holes": lambda m: check_tree(m, holes=True),
    "bad input": check_bad_input,
    "bad input, streams": lambda m: check_bad_input(m, unified=False),
    "cells": check_cells,
    "cells, streams": lambda m: check_cells(m, unified=False),
    "cell bytes": check_cell_bytes,
    "rollback": check_rollback,
    "rollback, streams": lambda m: check_rollback(m, unified=False),
    "window": check_window,
    "window, room": check_window_room,
}


@contextmanager
def loaded(path: str) -> Iterator[Model]:
    model = Model(path)
    try:
        yield model
    finally:
        model.close()


def kind(model: Model) -> str:
    with Context(model) as context:
        if not context.memory:
            return "no memory"
    return "recurrent" if model.is_recurrent else "hybrid" if model.is_hybrid else "attention"


def results(path: str) -> dict[str, str]:
    found: dict[str, str] = {}
    with loaded(path) as model:
        found["kind"] = kind(model)
        found["n_swa"] = str(model.n_swa)
        for name, check in CHECKS.items():
            if found["kind"] == "no memory" and not name.startswith("bad input"):
                found[name] = "none"
                continue
            try:
                found[name] = check(model)
            except Exception as failure:  # noqa: BLE001 - it is this model's result
                at = traceback.extract_tb(failure.__traceback__)[-1]
                found[name] = f"failed: {failure} ({at.name})"
    return found


def main() -> None:
    bindings.start()
    for path in sys.argv[1:]:
        arch = Path(path).stem
        print(json.dumps({"begin": arch}), flush=True)
        print(json.dumps({"arch": arch, "results": results(path)}), flush=True)


if __name__ == "__main__":
    main()
