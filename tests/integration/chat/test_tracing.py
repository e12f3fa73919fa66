"""What tracers of LangChain's runs see of forks: LangSmith's, and OpenTelemetry's spans from it."""

import json

import pytest
from helpers import call
from langchain_core.tracers import LangChainTracer
from langchain_core.tracers.base import BaseTracer
from langsmith import Client
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from langgraph_kvfork import ForkNode, ForkReport, PrefillNode

BRANCHES = {"risks": "List the risks.", "dates": "List the dates."}


class Runs(BaseTracer):
    """Keeps the runs that it receives."""

    run_inline = True

    def __init__(self):
        super().__init__()
        self.roots = []

    def _persist_run(self, run):
        self.roots.append(run)


def check(numbers, of_report):
    """Compare a message's metadata with what a report counted."""
    fork, timings = numbers["fork"], numbers["timings"]
    assert fork["branch_id"] == of_report.branch_id
    for name in ("parent_id", "forked_tokens", "prefilled_tokens", "cell_bytes"):
        assert fork[name] == getattr(of_report, name)
    for name in ("wait_ms", "prefill_ms", "decode_ms"):
        assert timings[name] == getattr(of_report, name)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_a_run_has_the_numbers_of_its_message(llm, engine, excerpt, asynchronous):
    tracer, report = Runs(), ForkReport()
    config = {"callbacks": [tracer, report]}
    await call(ForkNode(llm, BRANCHES), {"messages": excerpt}, config, asynchronous=asynchronous)
    runs = {run.extra["metadata"]["kvfork_branch"]: run for run in tracer.roots[0].child_runs}
    assert runs.keys() == BRANCHES.keys()
    for reported in report.calls:
        message = runs[reported.branch_name].outputs["generations"][0][0]["message"]["kwargs"]
        check(message["response_metadata"], reported)
        assert message["usage_metadata"]["input_token_details"]["cache_read"] == (
            reported.forked_tokens
        )


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_what_was_prefilled_ahead_is_a_run_too(llm, engine, excerpt, asynchronous):
    tracer, report = Runs(), ForkReport()
    config = {"callbacks": [tracer, report]}
    await call(PrefillNode(llm), {"messages": excerpt}, config, asynchronous=asynchronous)
    (run,) = tracer.roots[0].child_runs
    assert run.name == "prefilled"
    (reported,) = report.calls
    assert run.outputs["prefilled_tokens"] == reported.prefilled_tokens > 0
    assert run.outputs["branch_id"] == reported.branch_id
    for name in ("parent_id", "prompt_tokens", "forked_tokens", "prefill_ms", "cell_bytes"):
        assert run.outputs[name] == getattr(reported, name)


@pytest.fixture
def spans(monkeypatch):
    """LangSmith's tracer, which writes spans here and nothing to LangSmith; and the spans."""
    monkeypatch.setenv("LANGSMITH_OTEL_ENABLED", "true")
    monkeypatch.setenv("LANGSMITH_OTEL_ONLY", "true")
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    client = Client(api_key="none", otel_tracer_provider=provider)

    def finished():
        client.flush()
        return exporter.get_finished_spans()

    yield LangChainTracer(client=client), finished
    client.cleanup()
    provider.shutdown()


def test_a_span_has_them_too(llm, engine, excerpt, spans):
    tracer, finished = spans
    report = ForkReport()
    ForkNode(llm, BRANCHES).invoke({"messages": excerpt}, {"callbacks": [tracer, report]})
    attributes = {
        span.attributes["langsmith.metadata.kvfork_branch"]: span.attributes
        for span in finished()
        if "langsmith.metadata.kvfork_branch" in span.attributes
    }
    assert attributes.keys() == BRANCHES.keys()
    for reported in report.calls:
        found = attributes[reported.branch_name]
        assert found["gen_ai.usage.input_tokens"] == reported.prompt_tokens
        usage = json.loads(found["langsmith.metadata.usage_metadata"])
        assert usage["input_token_details"]["cache_read"] == reported.forked_tokens
        completion = json.loads(found["gen_ai.completion"])
        message = completion["generations"][0][0]["message"]["kwargs"]
        check(message["response_metadata"], reported)
