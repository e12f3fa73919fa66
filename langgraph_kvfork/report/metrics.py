"""The counters of the process's engines as OpenTelemetry metrics."""

from __future__ import annotations

import importlib
import itertools
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from langgraph_kvfork.engine.engine import Engine
from langgraph_kvfork.engine.stats import EngineStats
from langgraph_kvfork.errors import EngineClosedError, MissingPackageError


class Metric(NamedTuple):
    """What a field of `EngineStats` or of `MemoryPart` is called as a metric.

    Attributes:
        kind: A sum that only grows, or a number as it is now.
        name: By OpenTelemetry's rules for names.
        unit: By the Unified Code for Units of Measure; what is counted, in braces.
        description: In words.
    """

    kind: Literal["counter", "gauge"]
    name: str
    unit: str
    description: str


METRICS = {
    "prefilled_tokens": Metric(
        "counter", "kvfork.tokens.prefilled", "{token}", "Tokens computed for prompts"
    ),
    "forked_tokens": Metric(
        "counter", "kvfork.tokens.forked", "{token}", "Tokens that branches got from a fork"
    ),
    "restored_tokens": Metric(
        "counter", "kvfork.tokens.restored", "{token}", "Tokens that branches got from the store"
    ),
    "generated_tokens": Metric("counter", "kvfork.tokens.generated", "{token}", "Tokens generated"),
    "stored_bytes": Metric("counter", "kvfork.store.written", "By", "Written to the store"),
    "recomputed_tokens": Metric(
        "counter", "kvfork.tokens.recomputed", "{token}", "Prefilled tokens that had been given up"
    ),
    "preempted_tokens": Metric(
        "counter", "kvfork.tokens.preempted", "{token}", "Cells that preempted branches gave up"
    ),
    "forks": Metric("counter", "kvfork.forks", "{fork}", "Sequences that began as a fork"),
    "preemptions": Metric(
        "counter", "kvfork.preemptions", "{preemption}", "Times that a branch gave up its cells"
    ),
    "evictions": Metric(
        "counter", "kvfork.evictions", "{snapshot}", "Snapshots dropped to make room"
    ),
    "evictions_to_start": Metric(
        "counter", "kvfork.evictions.to_start", "{snapshot}", "Those for a branch that was to start"
    ),
    "steps": Metric("counter", "kvfork.steps", "{step}", "Batches computed"),
    "pages_read": Metric(
        "counter", "kvfork.pages.read", "{page}", "Stretches of 64 cells that attention has read"
    ),
    "branches_started": Metric(
        "counter", "kvfork.branches.started", "{branch}", "Branches that got a sequence"
    ),
    "wait_ms": Metric("counter", "kvfork.wait", "ms", "How long branches waited for a sequence"),
    "wait_ms_max": Metric("gauge", "kvfork.wait.max", "ms", "How long one of them did at most"),
    "gap_ms_max": Metric(
        "gauge", "kvfork.gap.max", "ms", "The longest time between two tokens of a branch"
    ),
    "cells_total": Metric("gauge", "kvfork.cells.limit", "{cell}", "KV cells, one for each token"),
    "cells_used": Metric("gauge", "kvfork.cells.used", "{cell}", "KV cells in use"),
    "cells_used_max": Metric("gauge", "kvfork.cells.used.max", "{cell}", "The most at a time"),
    "cells_wanted_max": Metric(
        "gauge", "kvfork.cells.wanted.max", "{cell}", "An n_ctx without preemptions; 0: this one"
    ),
    "branches_running": Metric(
        "gauge", "kvfork.branches.running", "{branch}", "Branches that have a sequence"
    ),
    "branches_waiting": Metric(
        "gauge", "kvfork.branches.waiting", "{branch}", "Branches that wait for one"
    ),
    "snapshots": Metric(
        "gauge", "kvfork.snapshots", "{snapshot}", "Prefixes that are there for later forks"
    ),
    "snapshots_kept": Metric(
        "gauge", "kvfork.snapshots.kept", "{snapshot}", "Those that a run needs which is not over"
    ),
}
"""By field of `EngineStats`; its `parts` have `PART_METRICS`."""

PART_METRICS = {
    "cells_total": Metric("gauge", "kvfork.part.cells.limit", "{cell}", "KV cells of a part"),
    "cells_used": Metric("gauge", "kvfork.part.cells.used", "{cell}", "KV cells of it in use"),
    "pages_total": Metric("gauge", "kvfork.part.pages.limit", "{page}", "Pages of 64 cells"),
    "pages_empty": Metric("gauge", "kvfork.part.pages.empty", "{page}", "Pages that are empty"),
}
"""By field of `MemoryPart`, whose `window` is an attribute."""

_numbers = itertools.count(1)
_number_of: weakref.WeakKeyDictionary[Engine, int] = weakref.WeakKeyDictionary()
_recorded: weakref.WeakSet[Any] = weakref.WeakSet()
_lock = threading.RLock()


def record_metrics(meter_provider: Any = None) -> None:
    """Report the counters of all engines of this process as OpenTelemetry metrics.

    Engines that are made later are among them; those that are closed are not. The numbers are read
    when they are collected, at no cost in between. Exporting them is the meter provider's business.
    A second call for the same provider does nothing.

    Each metric has the attributes `kvfork.engine`, a number, and `kvfork.model`, the name of the
    model's file. Those of the parts of the memory have `kvfork.part`, a number, and
    `kvfork.window`, in tokens; 0 is a part that keeps all tokens.

    Args:
        meter_provider: An `opentelemetry.metrics.MeterProvider`; default: the global one.

    Raises:
        MissingPackageError: The package `opentelemetry-api` is missing.
    """
    try:
        # not an import statement, which type checkers could only follow where it is installed
        otel = importlib.import_module("opentelemetry.metrics")
    except ImportError as error:
        raise MissingPackageError(
            "record_metrics needs the package opentelemetry-api: "
            "`pip install 'langgraph-kvfork[metrics]'`."
        ) from error
    provider = otel.get_meter_provider() if meter_provider is None else meter_provider
    with _lock:
        if provider in _recorded:
            return
        _recorded.add(provider)
    meter = otel.get_meter("langgraph_kvfork", meter_provider=provider)
    for field, metric in METRICS.items():
        _observe(otel, meter, metric, _EngineField(field))
    for field, metric in PART_METRICS.items():
        _observe(otel, meter, metric, _PartField(field))


def _observe(otel: Any, meter: Any, metric: Metric, values: _EngineField | _PartField) -> None:
    def callback(_: Any) -> Iterator[Any]:
        for value, attributes in values():
            yield otel.Observation(value, attributes)

    create = (
        meter.create_observable_counter
        if metric.kind == "counter"
        else meter.create_observable_gauge
    )
    create(metric.name, [callback], unit=metric.unit, description=metric.description)


_Attributes = dict[str, str | int]


class _EngineField(NamedTuple):
    """A field of each engine's `EngineStats`."""

    name: str

    def __call__(self) -> Iterator[tuple[float, _Attributes]]:
        for stats, attributes in _all_stats():
            yield getattr(stats, self.name), attributes


class _PartField(NamedTuple):
    """A field of each part of each engine's memory."""

    name: str

    def __call__(self) -> Iterator[tuple[float, _Attributes]]:
        for stats, attributes in _all_stats():
            for i, part in enumerate(stats.parts):
                value = getattr(part, self.name)
                yield value, {**attributes, "kvfork.part": i, "kvfork.window": part.window}


def _all_stats() -> Iterator[tuple[EngineStats, _Attributes]]:
    for engine in Engine.all():
        with _lock:
            if engine not in _number_of:
                _number_of[engine] = next(_numbers)
            number = _number_of[engine]
        try:
            stats = engine.stats()
        except EngineClosedError:  # meanwhile
            continue
        model = Path(engine.params.model_path).name
        yield stats, {"kvfork.engine": number, "kvfork.model": model}
