"""Tables, units and line breaks of printed text.

This is not rich, which draws the demo: rich breaks a word that is longer than a line, such as a
path, and a report is printed to logs and pipes as well as to terminals.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
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


def size(n_bytes: int) -> str:
    """Return a count of bytes for people."""
    if n_bytes < 2**30:
        return f"{n_bytes / 2**20:.0f} MiB"
    return f"{n_bytes / 2**30:.1f} GiB"


def duration(milliseconds: float) -> str:
    """Return a time for people."""
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    return f"{milliseconds / 1000:.1f} s"


def terminal_width() -> int | None:
    """Return the columns of the terminal that stdout is; None if it is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def fold(text: str, width: int | None, indent: int = 0) -> str:
    """Break lines between words.

    Args:
        text: Lines.
        width: The longest line; None: leave all as they are. Words are never broken.
        indent: Blanks before what goes on in the next line.
    """
    if width is None:
        return text
    lines = []
    for line in text.splitlines():
        if len(line) <= width or " " not in line[indent:]:
            lines.append(line)
            continue
        lines += textwrap.wrap(
            line,
            width,
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)
