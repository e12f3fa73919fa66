"""A table of plain text."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """Return a table's lines: the first column to the left, the others to the right.

    Args:
        rows: All of one length; the first one has the headings.
        width: The longest line, for which names in the first column are cut; None: any length.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if width is not None:
        widths[0] = max(min(widths[0], width - sum(2 + n for n in widths[1:])), 1)
    lines = []
    for name, *numbers in rows:
        name = name if len(name) <= widths[0] else f"{name[: widths[0] - 1]}…"
        cells = [n.rjust(width) for n, width in zip(numbers, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *cells]))
    return lines
