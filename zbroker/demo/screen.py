"""What the demo shows: a line an event, tables at the end, and on a terminal a bar that moves. It decides nothing."""

import textwrap
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

PIPE_COLUMNS = 100
"""Width of lines where the output is no terminal."""

_STYLES = {"kill -9": "bold red", "equal": "bold green", "failed": "bold red"}


class Screen:
    """The terminal, or whatever stands in its place. Times count from when it was made."""

    def __init__(self, jobs: int) -> None:
        self._started = time.monotonic()
        self._console = Console(highlight=False)
        if not self._console.is_terminal:
            self._console = Console(highlight=False, width=PIPE_COLUMNS)
        self._progress = Progress(
            TextColumn("       "),
            BarColumn(bar_width=20, complete_style="green", finished_style="green"),
            MofNCompleteColumn(),
            TextColumn("[dim]{task.fields[told]}"),
            console=self._console,
            transient=True,
        )
        self._bar = self._progress.add_task("results", total=jobs, told="")

    def __enter__(self) -> Self:
        # Without a terminal nothing moves, and the lines alone tell it.
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_bar()

    def title(self, text: str) -> None:
        """The first line."""
        self._console.print(Text(text, style="bold"))
        self._console.print()

    def say(self, who: str, text: str) -> None:
        """One line, with the time: who does what."""
        line = Table.grid(padding=(0, 2))
        line.add_column(width=6, justify="right", style="dim")
        line.add_column(width=7, style=_STYLES.get(who, "cyan"))
        line.add_column(overflow="fold")
        line.add_row(f"{time.monotonic() - self._started:.1f}s", who, text)
        self._console.print(line)

    def move(self, results: int) -> None:
        """Move the bar."""
        self._progress.update(self._bar, completed=results)

    def tell(self, text: str) -> None:
        """Change what stands beside the bar."""
        self._progress.update(self._bar, told=text)

    def end_bar(self) -> None:
        """Take the bar away."""
        if self._console.is_terminal:
            self._progress.stop()

    def gap(self) -> None:
        """An empty line."""
        self._console.print()

    def heading(self, text: str) -> None:
        """What the tables below are about."""
        self._console.print()
        self._console.print(Text(text, style="bold"))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str | int]]) -> None:
        """A small table; numbers to the right, with commas."""
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim", border_style="dim")
        for position, column in enumerate(columns):
            numbers = all(isinstance(row[position], int) for row in rows)
            table.add_column(column, justify="right" if numbers else "left", overflow="fold")
        for row in rows:
            table.add_row(*(f"{cell:,}" if isinstance(cell, int) else Text(cell) for cell in row))
        self._console.print()
        self._console.print(Padding(table, (0, 0, 0, 2), expand=False))

    def note(self, text: str) -> None:
        """A sentence below a table."""
        self._console.print()
        for line in textwrap.wrap(text, self._console.width - 2):
            self._console.print(Text("  " + line))
