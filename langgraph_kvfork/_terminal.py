"""Text that fits into the terminal, where there is one."""

from __future__ import annotations

import shutil
import sys
import textwrap


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
