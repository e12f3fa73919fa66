"""What is measured: the grids that `make bench GRID=...` knows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

from benchmarks.contestants import CONTESTANTS

LIBRARIES = ("stock", "kvfork")
"""What all but the fan-outs compare: llama.cpp as it is, and ours."""


@dataclass(frozen=True)
class Task:
    """One measurement, without its round.

    Attributes:
        benchmark: "fan-out", or one of `measures/`.
        contestant: Who: one of `CONTESTANTS` for a fan-out, of `LIBRARIES` for the others; of
            `steps` both of them, which take turns in one process; of `peak` the machine.
        model: One of `MODELS`.
        branches: Branches of the fan-out.
        prefix: Tokens that they share; of the other benchmarks, the document's.
        generate: Tokens that each generates.
    """

    benchmark: str
    contestant: str
    model: str
    branches: int = 0
    prefix: int = 0
    generate: int = 0

    @classmethod
    def of(cls, measurement: Mapping[str, Any]) -> Task:
        """Return the task that a measurement in a file of results is of."""
        return cls(**{field.name: measurement[field.name] for field in fields(cls)})

    def __str__(self) -> str:
        numbers = ("branches", "prefix", "generate")
        counts = [f"{getattr(self, name)} {name}" for name in numbers if getattr(self, name)]
        return ", ".join([self.benchmark, self.contestant, self.model, *counts])

    def at_least(self, other: Task) -> bool:
        """Whether it is the same as `other`, or more of it."""
        same = ("benchmark", "contestant", "model")
        more = ("branches", "prefix", "generate")
        return all(getattr(self, name) == getattr(other, name) for name in same) and all(
            getattr(self, name) >= getattr(other, name) for name in more
        )

    def selected(self, only: Mapping[str, Collection[str]]) -> bool:
        """Whether every field that `only` names has one of the values it gives."""
        return all(str(getattr(self, name)) in values for name, values in only.items())


@dataclass(frozen=True)
class Grid:
    """A selection of tasks.

    Attributes:
        models: Names of models, see `models.py`.
        fan_outs_only: Those of them that run the fan-outs, their steps and prefills, and no more.
        branches: Branches of the fan-outs.
        prefixes: Tokens that they share.
        generate: Tokens that each generates.
        prefills: Lengths of prompts whose prefill is timed.
        first_token: Lengths of documents after which a first token is timed.
        steady: Documents of fan-outs in an engine that has run for a while.
        busy: Documents of fan-outs beside another program.
        beside: Lengths of prompts that come while others are read.
        mixed: Lengths of the documents in a mixed load.
        store: Lengths of documents that are kept in a store.
        servers: Tokens that each branch generates in fan-outs of llama-server alone, through our
            chat model and without it.
        left_out: Contestants that do not run the fan-outs.
        rounds: Most times that a task is measured.
        enough: Seconds of measuring after which a task gets no further round.
        limit: Seconds after which a measurement is given up.
    """

    models: tuple[str, ...]
    branches: tuple[int, ...]
    prefixes: tuple[int, ...]
    generate: tuple[int, ...]
    fan_outs_only: tuple[str, ...] = ()
    prefills: tuple[int, ...] = ()
    first_token: tuple[int, ...] = ()
    steady: tuple[int, ...] = ()
    busy: tuple[int, ...] = ()
    beside: tuple[int, ...] = ()
    mixed: tuple[int, ...] = ()
    store: tuple[int, ...] = ()
    servers: tuple[int, ...] = ()
    left_out: tuple[str, ...] = ()
    rounds: int = 3
    enough: float = 40
    limit: float = 900

    def groups(self) -> Iterator[list[Task]]:
        """Group what is compared with each other, and so is measured in turn, round by round."""
        names = [name for name in CONTESTANTS if name not in self.left_out]
        servers = [name for name in names if CONTESTANTS[name].options.get("warmed") is False]
        for model in self.models:
            for cell in product(self.prefixes, self.branches, self.generate):
                prefix, branches, generate = cell
                yield [Task("fan-out", name, model, branches, prefix, generate) for name in names]
            yield [Task("peak", "machine", model)]
            yield [Task("steps", "+".join(LIBRARIES), model)]
            for prefix in self.prefills:
                yield [Task("prefill", name, model, prefix=prefix) for name in LIBRARIES]
            if model in self.fan_outs_only:
                continue
            for cell in product(self.prefixes, self.branches, self.servers):
                prefix, branches, generate = cell
                yield [Task("fan-out", n, model, branches, prefix, generate) for n in servers]
            yield [Task("memory", name, model) for name in LIBRARIES]
            for prefix in self.first_token:
                yield [Task("first_token", name, model, prefix=prefix) for name in LIBRARIES]
            for prefix in self.steady:
                yield [Task("steady", "kvfork", model, branches=8, prefix=prefix, generate=32)]
            for prefix in self.busy:
                yield [Task("busy", name, model, 8, prefix, 64) for name in LIBRARIES]
            for prefix in self.beside:
                yield [Task("beside", "kvfork", model, branches=8, prefix=prefix, generate=1)]
            for prefix in self.mixed:
                yield [Task("mixed", name, model, 8, prefix, 48) for name in LIBRARIES]
            for prefix in self.store:
                yield [Task("store", name, model, 8, prefix, 1) for name in LIBRARIES]


GRIDS = {
    # under 20 minutes on two cores; the first model's fan-out is the README's table
    "quick": Grid(
        models=("Qwen-0.5B-Q4_K_M", "SmolLM2"),
        fan_outs_only=("Qwen-0.5B-Q4_K_M",),
        branches=(8,),
        prefixes=(2048,),
        generate=(64,),
        prefills=(512,),
        first_token=(3500,),
        steady=(1024,),
        busy=(512,),
        beside=(4000,),
        mixed=(1500,),
        store=(7000,),
        servers=(16,),
        # of llama-server's two ways to keep its slots, the faster one for this fan-out
        left_out=("llama-server", "llama-server-warmed", "llama-server-shared"),
        enough=25,
    ),
    # days: everything, and of what is too slow, that it is
    "full": Grid(
        models=(
            "SmolLM2",
            "Qwen-0.5B-Q4_K_M",
            "Qwen-0.5B-Q8_0",
            "Qwen-1.5B-Q4_K_M",
            "Qwen-1.5B-Q8_0",
            "Qwen-1.5B-Q4_0",
        ),
        branches=(1, 2, 4, 8, 16, 32),
        prefixes=(512, 2048, 7000),
        generate=(64, 512),
        prefills=(512, 2048, 7000),
        first_token=(3500,),
        steady=(1024,),
        busy=(512,),
        beside=(4000,),
        mixed=(1500,),
        store=(7000,),
    ),
}
