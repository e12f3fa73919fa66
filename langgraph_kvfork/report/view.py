"""How a fork report looks: as text, as a Mermaid flow chart, as HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from langgraph_kvfork.report.counts import Counts, ReportedCall
from langgraph_kvfork.report.plain_text import duration, fold, size, text_table

_COUNTS = ("forked", "prefilled", "generated")
_COLORS = {"wait": "#bbb", "forked": "#4c9f70", "prefilled": "#e08e45", "generated": "#4a7fb5"}


@dataclass(frozen=True)
class _Row:
    """All calls of one branch of one node."""

    name: str
    calls: Sequence[ReportedCall]

    def count(self, name: str) -> int:
        return sum(getattr(call, f"{name}_tokens") for call in self.calls)


def text(report: Counts, width: int | None = None) -> str:
    """Return a table, and what sharing saved; `width`: the longest line."""
    table = [["", "calls", *_COUNTS]]
    for row in [*_rows(report), _Row("total", report.calls)]:
        counts = [len(row.calls), *(row.count(name) for name in _COUNTS)]
        table.append([row.name, *(f"{count:,}" for count in counts)])
    sentences = fold("\n".join(_sentences(report)), width)
    return "\n".join([*text_table(table, width), "", sentences])


def mermaid(report: Counts) -> str:
    """Return a flow chart whose arrows are forks."""
    rows = _rows(report)
    row_of = {(call.model, call.branch_id): i for i, row in enumerate(rows) for call in row.calls}
    lines = ["flowchart LR"]
    forks: Counter[tuple[int | None, int]] = Counter()
    for i, row in enumerate(rows):
        for call in row.calls:
            if call.forked_tokens:
                parent = (
                    None if call.parent_id is None else row_of.get((call.model, call.parent_id))
                )
                forks[parent, i] += call.forked_tokens
    for i, row in enumerate(rows):
        counts = [f"{len(row.calls):,} calls"] if len(row.calls) > 1 else []
        counts += [f"{row.count(name):,} {name}" for name in ("prefilled", "generated")]
        if among := forks.pop((i, i), 0):  # an arrow from a box to itself says nothing
            counts.append(f"{among:,} forked from one another")
        lines.append(f'  n{i}["{_mermaid_text(row.name)}<br/>{"<br/>".join(counts)}"]')
    if any(parent is None for parent, _ in forks):
        lines.append('  earlier(["earlier"])')
    for (parent, i), tokens in forks.items():
        source = "earlier" if parent is None else f"n{parent}"
        lines.append(f'  {source} -- "{tokens:,} forked" --> n{i}')
    return "\n".join(lines)


def html(report: Counts) -> str:
    """Return a table with a bar of tokens and a time line for each branch."""
    rows = _rows(report)
    most = max((sum(row.count(name) for name in _COUNTS) for row in rows), default=1) or 1
    begin = min((call.begin_ms for call in report.calls), default=0.0)
    span = max((call.ended_ms for call in report.calls), default=1.0) - begin or 1.0
    head = "".join(f'<th style="text-align:right">{name}</th>' for name in _COUNTS)
    body = []
    for row in rows:
        cells = "".join(f'<td style="text-align:right">{row.count(n):,}</td>' for n in _COUNTS)
        tokens = "".join(_bar(row.count(n) / most, _COLORS[n], n) for n in _COUNTS)
        times = "".join(_call_bars(call, begin, span) for call in row.calls)
        body.append(
            f'<tr><td style="text-align:left">{escape(row.name)}</td>{cells}'
            f"<td>{_track(tokens)}</td><td>{_track(times)}</td></tr>"
        )
    legend = "".join(
        f'<span style="display:inline-block;width:.8em;height:.8em;background:{color}"></span> '
        f"{'waiting' if name == 'wait' else name} &nbsp; "
        for name, color in _COLORS.items()
    )
    sentences = "<br/>".join(escape(line) for line in _sentences(report))
    return (
        '<div style="font-family:sans-serif;font-size:13px">'
        f'<table><thead><tr><th></th>{head}<th style="text-align:left">tokens</th>'
        f'<th style="text-align:left">{span / 1000:.1f} s</th></tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table><p>{legend}</p><p>{sentences}</p></div>"
    )


def _rows(report: Counts) -> list[_Row]:
    calls: dict[str, list[ReportedCall]] = {}
    for call in report.calls:
        name = " · ".join(filter(None, (call.node, call.branch_name))) or "outside of a graph"
        calls.setdefault(name, []).append(call)
    return [_Row(name, of_row) for name, of_row in calls.items()]


def _sentences(report: Counts) -> list[str]:
    n, saved, ahead = report.prompt_tokens, report.saved_tokens, report.ahead_tokens
    lines = [
        f"Without sharing, {n:,} tokens would have been prefilled; {report.prefilled_tokens:,} were"
        + (f", {ahead:,} of them ahead" if ahead else "")
        + (f": {saved:,} ({100 * saved / n:.0f} %) saved." if n else ".")
    ]
    rate, saved_ms = report.prefill_ms_per_token, report.estimated_saved_ms
    if rate is not None and saved_ms is not None and saved > 0:
        lines.append(
            f"At the {rate:.2g} ms per token that this run's own prefills took, that is about "
            f"{duration(saved_ms)}: an estimate."
        )
    if report.restored_tokens:
        lines.append(
            f"{report.restored_tokens:,} tokens came from the store, in "
            f"{duration(report.restore_ms)}."
        )
    if report.shared_bytes:
        lines.append(
            f"Forks shared {size(report.shared_bytes)} of the KV cache instead of holding it again."
        )
    if report.preemptions:
        lines.append(
            f"The pool was too small: branches gave up their cells {report.preemptions:,} times, "
            f"and {report.recomputed_tokens:,} tokens were computed again. Raise n_ctx."
        )
    if report.evictions:
        lines.append(
            f"{report.evictions:,} cached prefixes went to make room: what needs one of them again "
            "prefills it again."
        )
    if report.unfinished:
        other = report.unfinished - report.cancelled
        counts = {"cancelled": report.cancelled, "failed or still running": other}
        text = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
        lines.append(f"Calls that are not counted: {text}.")
    if report.unreported:
        lines.append(
            f"{report.unreported:,} calls are left out: their server does not report what it took "
            "from its cache."
        )
    return lines


def _mermaid_text(name: str) -> str:
    return escape(name).replace("`", "'")


def _call_bars(call: ReportedCall, begin: float, span: float) -> str:
    start = call.begin_ms
    bars = []
    for color, length in (
        ("wait", call.wait_ms),
        ("prefilled", call.prefill_ms),
        ("generated", call.decode_ms),
    ):
        place = f"position:absolute;left:{100 * (start - begin) / span:.2f}%;"
        bars.append(_bar(length / span, _COLORS[color], f"{length:.0f} ms", place))
        start += length
    return "".join(bars)


def _bar(share: float, color: str, title: str, style: str = "float:left;") -> str:
    return (
        f'<div title="{escape(title)}" style="{style}width:{100 * share:.2f}%;height:100%;'
        f'background:{color}"></div>'
    )


def _track(bars: str) -> str:
    return f'<div style="position:relative;width:220px;height:12px">{bars}</div>'
