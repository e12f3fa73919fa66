"""How a fork report adds up and how it looks; no model computes here."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from langgraph_kvfork import ForkReport, InvalidRequestError, ReportedCall
from langgraph_kvfork.report.plain_text import fold
from langgraph_kvfork.report.view import text


def call(node, branch, id, parent, prompt, forked, generated=5, kind="answer", cell_bytes=2048):
    return ReportedCall(
        node=node,
        branch_name=branch,
        kind=kind,
        model="model",
        branch_id=id,
        parent_id=parent,
        prompt_tokens=prompt,
        forked_tokens=forked,
        prefilled_tokens=prompt - forked,
        generated_tokens=generated,
        ended_ms=100.0 * id,
        wait_ms=10.0,
        prefill_ms=20.0,
        decode_ms=30.0,
        cell_bytes=cell_bytes,
    )


@pytest.fixture
def report():
    report = ForkReport()
    report.calls = [
        call("read", "", 1, None, 1000, 0, 0, "prefill"),
        call("panel", "risks", 2, 1, 1010, 1000),
        call("panel", "<dates>", 3, 1, 1020, 1000),
        call("join", "", 4, 99, 1100, 1000),
        call("", "", 5, None, 7, 0),
    ]
    report._n_failed, report._n_cancelled = 2, 1
    return report


def test_totals_are_of_what_was_computed_and_saved_is_against_answers_alone(report):
    assert report.prompt_tokens == 1010 + 1020 + 1100 + 7
    assert report.prefilled_tokens == 1000 + 10 + 20 + 100 + 7
    assert report.forked_tokens == 3000
    assert report.generated_tokens == 20
    assert report.saved_tokens == report.prompt_tokens - report.prefilled_tokens
    # and that is what answers took from forks, less what was prefilled ahead for them
    assert report.saved_tokens == report.forked_tokens - report.ahead_tokens == 3000 - 1000


def test_the_time_saved_is_an_estimate_from_the_runs_own_prefills(report):
    # 20 ms each, one after the other
    assert report.prefill_ms_per_token == pytest.approx(5 * 20 / 1137)
    assert report.estimated_saved_ms == pytest.approx(2000 * 5 * 20 / 1137)
    # what was prefilled at the same time is counted once: here 20 ms, and 5 more
    report.calls = [replace(report.calls[0], ended_ms=t) for t in (200.0, 205.0, 202.0)]
    assert report.prefill_ms_per_token == pytest.approx(25 / 3000)
    # where hardly anything was prefilled, nothing was measured
    for forked in (1000, 1000 - 63):
        report.calls = [call("a", "", 1, None, 1000, forked)]
        assert report.prefill_ms_per_token is None
        assert report.estimated_saved_ms is None
        assert "estimate" not in str(report)
    report.calls = [call("a", "", 1, None, 1000, 1000 - 64)]
    assert report.prefill_ms_per_token == 20 / 64


def test_the_memory_saved_is_of_whole_pages_and_of_known_models(report):
    assert report.shared_bytes == 3 * (1000 // 64 * 64) * 2048
    report.calls.append(call("a", "", 6, None, 100, 63, cell_bytes=None))
    assert report.shared_bytes == 3 * (1000 // 64 * 64) * 2048
    report.calls.append(call("b", "", 7, None, 100, 64, cell_bytes=None))
    assert report.shared_bytes is None
    assert "KV cache" not in str(report)
    assert ForkReport().shared_bytes == 0


def test_as_text(report):
    lines = str(report).splitlines()
    assert lines[0].split() == ["calls", "forked", "prefilled", "generated"]
    assert lines[1].split() == ["read", "1", "0", "1,000", "0"]
    assert lines[2].split() == ["panel", "·", "risks", "1", "1,000", "10", "5"]
    assert lines[5].split() == ["outside", "of", "a", "graph", "1", "0", "7", "5"]
    assert lines[6].split() == ["total", "5", "3,000", "1,137", "20"]
    assert len({len(line) for line in lines[:7]}) == 1
    assert lines[8] == (
        "Without sharing, 3,137 tokens would have been prefilled; 1,137 were, 1,000 of them ahead: "
        "2,000 (64 %) saved."
    )
    assert lines[9] == (
        "At the 0.088 ms per token that this run's own prefills took, that is about 176 ms: an "
        "estimate."
    )
    assert lines[10] == ("Forks shared 6 MiB of the KV cache instead of holding it again.")
    assert lines[11] == "Calls that are not counted: 1 cancelled, 2 failed or still running."
    assert repr(report) == (
        "<ForkReport: 5 calls, 1,137 tokens prefilled, 3,000 forked, 2,000 saved>"
    )


def test_as_mermaid_every_fork_is_an_arrow(report):
    assert report.mermaid().splitlines() == [
        "flowchart LR",
        '  n0["read<br/>1,000 prefilled<br/>0 generated"]',
        '  n1["panel · risks<br/>10 prefilled<br/>5 generated"]',
        '  n2["panel · &lt;dates&gt;<br/>20 prefilled<br/>5 generated"]',
        '  n3["join<br/>100 prefilled<br/>5 generated"]',
        '  n4["outside of a graph<br/>7 prefilled<br/>5 generated"]',
        '  earlier(["earlier"])',
        '  n0 -- "1,000 forked" --> n1',
        '  n0 -- "1,000 forked" --> n2',
        '  earlier -- "1,000 forked" --> n3',
    ]


def test_a_row_of_several_calls_has_no_arrow_to_itself(report):
    report.calls = [
        call("expert", "", 1, None, 100, 0),
        call("expert", "", 2, 1, 110, 90),
        call("expert", "", 3, 2, 110, 90),
        call("join", "", 4, 3, 130, 100),
    ]
    assert report.mermaid().splitlines() == [
        "flowchart LR",
        '  n0["expert<br/>3 calls<br/>140 prefilled<br/>15 generated'
        '<br/>180 forked from one another"]',
        '  n1["join<br/>30 prefilled<br/>5 generated"]',
        '  n0 -- "100 forked" --> n1',
    ]


class Balance(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = []
        self.text = []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_data(self, data):
        self.text.append(data)


def test_as_html(report):
    parser = Balance()
    parser.feed(report._repr_html_())
    assert parser.open == []
    shown = " ".join(parser.text)
    assert "panel · <dates>" in shown
    assert "<dates>" not in report.html()
    assert "2,000 (64 %) saved" in shown


@pytest.mark.parametrize("view", [str, ForkReport.mermaid, ForkReport.html, repr])
def test_an_empty_report_has_every_form(view):
    assert view(ForkReport())


def test_a_saved_report_is_the_same_when_it_is_read(report, tmp_path):
    report.save(tmp_path / "run.json")
    read = ForkReport.load(tmp_path / "run.json")
    assert read.as_dict() == report.as_dict()
    assert str(read) == str(report)
    assert json.loads((tmp_path / "run.json").read_text())["saved_tokens"] == report.saved_tokens


@pytest.mark.parametrize("content", [None, "{", "[]", '{"calls": [{}], "unfinished": 0}'])
def test_what_is_no_saved_report_is_refused(content, tmp_path):
    path = tmp_path / "run.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidRequestError, match=r"run\.json' is no saved report"):
        ForkReport.load(path)


def test_as_text_for_a_narrow_terminal(report):
    lines = text(report, 48).splitlines()
    assert max(map(len, lines)) <= 48
    assert lines[2].split()[0] == "panel"
    assert "…" in text(report, 40)
    assert " ".join(lines).endswith("2 failed or still running.")
    # words are never broken, and what goes on is indented
    assert fold("label: one two\n\nthree", 10, 7) == "label: one\n       two\n\nthree"
    assert fold("a/long/path", 5) == "a/long/path"
    assert text(report, None) == str(report)


def test_a_report_within_itself_is_refused_and_after_itself_goes_on(report):
    with report:
        with pytest.raises(InvalidRequestError, match="use another ForkReport"), report:
            pass
        # the refusal changed nothing: one within another works
        with ForkReport() as inner:
            assert inner._outer is report
    with report:
        assert report._outer is None
