"""The engines' counters as OpenTelemetry metrics, and the dashboard that shows them."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint, Sum

from langgraph_kvfork import Engine, EngineParams, MissingPackageError, record_metrics
from langgraph_kvfork.engine.stats import EngineStats, MemoryPart
from langgraph_kvfork.report.metrics import METRICS, PART_METRICS

DOCS = Path(__file__).parents[3] / "docs" / "running"


def collected(reader: InMemoryMetricReader) -> dict[str, list[NumberDataPoint]]:
    data = reader.get_metrics_data()
    if data is None:
        return {}
    return {
        metric.name: list(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


@pytest.fixture
def reader():
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    record_metrics(provider)
    record_metrics(provider)  # again, and nothing is there twice
    yield reader
    provider.shutdown()


def test_each_counter_is_a_metric():
    assert {field.name for field in dataclasses.fields(EngineStats)} == {*METRICS, "parts"}
    assert {field.name for field in dataclasses.fields(MemoryPart)} == {*PART_METRICS, "window"}


def test_all_engines_are_seen_while_they_live(reader, engine):
    model_path = engine.params.model_path
    params = EngineParams(model_path=model_path, n_ctx=256)
    with Engine(params) as first, Engine(params) as second:
        tokens = first.tokenize("One two three four")
        first.prefill(tokens)
        points = collected(reader)
        for field, metric in METRICS.items():
            values = {
                point.attributes["kvfork.engine"]: point.value
                for point in points[metric.name]
                if point.attributes["kvfork.model"] == Path(model_path).name
            }
            for one in (first, second):
                assert getattr(one.stats(), field) in values.values(), metric.name
        prefilled = {point.value for point in points["kvfork.tokens.prefilled"]}
        assert {0, len(tokens)} <= prefilled
        part = points["kvfork.part.cells.used"][0]
        assert {"kvfork.part", "kvfork.window", "kvfork.engine"} <= set(part.attributes)
        n_engines = len(points["kvfork.steps"])
    assert len(collected(reader).get("kvfork.steps", [])) == n_engines - 2


def test_what_only_grows_is_a_sum(reader, engine):
    with Engine(EngineParams(model_path=engine.params.model_path, n_ctx=256)):
        data = reader.get_metrics_data()
        for scope in data.resource_metrics[0].scope_metrics:
            for metric in scope.metrics:
                kind = {m.name: m.kind for m in [*METRICS.values(), *PART_METRICS.values()]}
                is_sum = isinstance(metric.data, Sum) and metric.data.is_monotonic
                assert is_sum == (kind[metric.name] == "counter"), metric.name


def test_without_the_package_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)
    with pytest.raises(MissingPackageError, match=r"langgraph-kvfork\[metrics\]"):
        record_metrics()


def prometheus_names() -> set[str]:
    """Return the names that OpenTelemetry's exporters for Prometheus make of ours."""
    names = set()
    for metric in [*METRICS.values(), *PART_METRICS.values()]:
        name = metric.name.replace(".", "_")
        name += "_milliseconds" if metric.unit == "ms" else ""
        names.add(name + ("_total" if metric.kind == "counter" else ""))
    return names


def test_the_dashboard_asks_for_what_there_is():
    dashboard = json.loads((DOCS / "metrics-dashboard.json").read_text("utf-8"))
    asked = set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            asked |= set(re.findall(r"kvfork_\w+(?=\{)", target["expr"]))
    assert asked <= prometheus_names()
    # and for all of it, but for what is clearer of each engine by hand
    left = prometheus_names() - asked
    assert left <= {"kvfork_part_cells_limit", "kvfork_part_cells_used", "kvfork_part_pages_limit"}


def test_the_page_has_each_metric():
    page = (DOCS / "metrics.md").read_text("utf-8")
    for field, metric in {**METRICS, **PART_METRICS}.items():
        row = f"| `{metric.name}` | {metric.kind} | `{metric.unit}` | `{field}` |"
        assert row in page
