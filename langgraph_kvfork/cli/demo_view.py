"""What the demo shows while it runs: live in a terminal, line by line elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from typing_extensions import Self


class View(Protocol):
    """Shows one run of the graph."""

    def prefill(self, done: int, total: int) -> None:
        """Show that `done` of `total` tokens are prefilled."""

    def text(self, name: str, text: str, *, last: bool) -> None:
        """Show more text of a branch; `last`: nothing more comes."""


def make_view(title: str, names: Sequence[str]) -> AbstractContextManager[View]:
    """Return a view for the terminal that stdout is, or for the file or pipe.

    Args:
        title: What runs.
        names: The branches.
    """
    console = Console()
    if console.is_terminal:
        return _LiveView(console, title, names)
    return _PlainView(title)


def print_table(columns: dict[str, dict[str, str]], caption: str) -> None:
    """Print a table.

    Args:
        columns: By its heading, a column's values by the rows' names; all with the same rows.
        caption: Stands below.
    """
    table = Table()
    table.add_column("")
    for heading in columns:
        table.add_column(heading, justify="right")
    for row in next(iter(columns.values())):
        table.add_row(row, *(column[row] for column in columns.values()))
    console = Console()
    console.print(table)
    # not the table's own caption, which wraps at the table's width
    console.print(caption, highlight=False, soft_wrap=not console.is_terminal)


class _LiveView:
    def __init__(self, console: Console, title: str, names: Sequence[str]) -> None:
        self._console = console
        self._title = title
        self._texts = dict.fromkeys(names, "")
        self._progress = Progress(
            TextColumn("prefill"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        )
        self._task = self._progress.add_task("prefill", total=None)
        # the renderable is made when the screen is refreshed, not for every token
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=8)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def prefill(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)

    def text(self, name: str, text: str, *, last: bool) -> None:
        self._texts[name] += text

    def _render(self) -> Group:
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(ratio=1)
        # two lines per branch at most, so that all of them stay in sight
        room = 2 * max(self._console.width - max(map(len, self._texts)) - 4, 20)
        for name, text in self._texts.items():
            line = " ".join(text.split())
            table.add_row(name, line if len(line) <= room else f"…{line[1 - room :]}")
        return Group(Text(self._title, style="bold cyan"), self._progress, table)


class _PlainView:
    def __init__(self, title: str) -> None:
        self._title = title
        self._texts: dict[str, str] = {}
        self._tenth = -1

    def __enter__(self) -> Self:
        print(f"== {self._title}", flush=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return

    def prefill(self, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if tenth > self._tenth:
            self._tenth = tenth
            print(f"prefill: {done:,} of {total:,} tokens", flush=True)

    def text(self, name: str, text: str, *, last: bool) -> None:
        self._texts[name] = self._texts.get(name, "") + text
        if last:
            print(f"{name}: {' '.join(self._texts[name].split())}", flush=True)
