"""What a terminal shows besides lines: tables that fit its width, bars of progress.

A narrow terminal shows fewer columns. A pipe gets all columns with one line per row, and a line of progress every few
seconds.
"""

import os
import stat
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Final, TypeVar

import msgspec
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from stream_app.cli.base import console, say
from stream_app.client.publish import PublishSummary
from stream_app.domain.model.text import count, for_terminal

T = TypeVar("T")

_GAP: Final = "  "
_LEAST: Final = 24
"""Minimum width of a prose column."""
_MOST_WORD: Final = 40
"""A longer word, such as a URL, may exceed its column."""


class Column(msgspec.Struct, frozen=True):
    """A column.

    Attributes:
        title: The header.
        rank: 0 is always shown. On a narrow terminal the highest rank is left out first.
        right: Align cells to the right.
        prose: Cells may wrap between words.
    """

    title: str
    rank: int = 0
    right: bool = False
    prose: bool = False


class Table:
    """Rows of text under columns."""

    def __init__(self, *columns: Column, title: str = "") -> None:
        self.title = title
        self.columns = columns
        self.rows: list[list[str]] = []

    def add(self, *cells: object) -> None:
        """Add a row. Line ends become spaces, and control characters are replaced."""
        self.rows.append([for_terminal(" ".join(str(cell).split())) for cell in cells])


def table_of(items: Iterable[T], columns: Mapping[Column, Callable[[T], object]]) -> Table:
    """Build a table with a row for each item. `columns` has the cell that each column shows of an item."""
    table = Table(*columns)
    for item in items:
        table.add(*(cell(item) for cell in columns.values()))
    return table


def lines_of(table: Table, width: int | None) -> tuple[list[str], list[str]]:
    """Format the header and the rows as lines, and return the titles of the columns left out.

    `width` is that of the terminal, in cells; None if the output is no terminal: nothing is left out or wrapped.
    """
    grid = [[column.title for column in table.columns], *table.rows]
    shown = _chosen(table.columns, grid, width)
    left_out = [column.title for number, column in enumerate(table.columns) if number not in shown]
    widths = _widths(table.columns, grid, shown, width)
    if width is not None and _total(widths.values()) > width:
        return _stacked(grid, shown), left_out
    lines: list[str] = []
    for row in grid:
        cells = {n: _wrapped(row[n], widths[n], wraps=table.columns[n].prose and width is not None) for n in shown}
        for at in range(max(map(len, cells.values()))):
            parts = [
                _padded(cells[n][at] if at < len(cells[n]) else "", widths[n], right=table.columns[n].right)
                for n in shown
            ]
            lines.append(_GAP.join(parts).rstrip())
    return lines, left_out


def show_table(table: Table) -> None:
    """Print a table on stdout, and on stderr the columns that a narrow terminal has no room for."""
    out = console()
    lines, left_out = lines_of(table, out.width if out.is_terminal else None)
    if table.title:
        out.print(Text(table.title, style="italic"))
    for number, line in enumerate(lines):
        out.print(Text(line, style="" if number else "bold"), soft_wrap=True)
    if left_out:
        say(f"not shown at this width: {', '.join(filter(None, left_out))} (a wider terminal or a pipe shows all)")


def _chosen(columns: Sequence[Column], grid: list[list[str]], width: int | None) -> list[int]:
    """Return the numbers of the columns that fit."""
    shown = list(range(len(columns)))
    if width is None:
        return shown
    least = [_least(column, [row[number] for row in grid]) for number, column in enumerate(columns)]
    while _total(least[number] for number in shown) > width:
        last = max(reversed(shown), key=lambda number: columns[number].rank)
        if columns[last].rank == 0:
            break
        shown.remove(last)
    return shown


def _least(column: Column, cells: list[str]) -> int:
    natural = max(map(cell_len, cells))
    if not column.prose:
        return natural
    longest = max((cell_len(word) for cell in cells for word in cell.split()), default=0)
    return min(natural, max(_LEAST, min(longest, _MOST_WORD)))


def _widths(columns: Sequence[Column], grid: list[list[str]], shown: list[int], width: int | None) -> dict[int, int]:
    """Return each column's width. Prose columns share the space that the others leave."""
    widths = {number: max(cell_len(row[number]) for row in grid) for number in shown}
    if width is None:
        return widths
    over = _total(widths.values()) - width
    for number in sorted((number for number in shown if columns[number].prose), key=lambda number: -widths[number]):
        least = _least(columns[number], [row[number] for row in grid])
        narrower = max(0, min(over, widths[number] - least))
        widths[number] -= narrower
        over -= narrower
    return widths


def _stacked(grid: list[list[str]], shown: list[int]) -> list[str]:
    """Format each row as a block of lines, for a terminal too narrow for the columns of rank 0."""
    titles, *rows = grid
    first, *others = shown
    lines = [titles[first]]
    for row in rows:
        lines.append(row[first])
        lines += [f"  {f'{titles[n]}: ' if titles[n] else ''}{row[n]}" for n in others if row[n]]
    return lines


def _total(widths: Iterable[int]) -> int:
    numbers = list(widths)
    return sum(numbers) + len(_GAP) * (len(numbers) - 1)


def _wrapped(cell: str, width: int, *, wraps: bool) -> list[str]:
    if not wraps or cell_len(cell) <= width:
        return [cell]
    return textwrap.wrap(cell, width, break_long_words=False, break_on_hyphens=False)


def _padded(cell: str, width: int, *, right: bool) -> str:
    space = " " * (width - cell_len(cell))
    return space + cell if right else cell + space


_PLAIN_EVERY_S: Final = 5.0


@contextmanager
def reading(what: str, unit: str = "offsets") -> Iterator[Callable[[int, int], None]]:
    """Show how much is read.

    Yields:
        A function of the units done and the units in all.
    """
    console, due = Console(stderr=True), _Due()
    if not console.is_terminal:
        yield lambda done, total: say(f"{what}: {done} of {total} {unit}") if due() else None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def reading_rows(source: IO[bytes]) -> Iterator[Callable[[PublishSummary], None]]:
    """Show rows per second since the start, and the time left by the bytes read.

    Yields:
        A function of the counts so far.
    """
    status = os.fstat(source.fileno())
    size_bytes = status.st_size if stat.S_ISREG(status.st_mode) else None
    console, due, began_s = Console(stderr=True), _Due(), time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("0 rows", total=size_bytes)

        def show(summary: PublishSummary) -> None:
            if not console.is_terminal and not due():
                return
            elapsed_s = max(time.monotonic() - began_s, 0.001)
            text = f"{count(summary.rows, 'row')}, {summary.rows / elapsed_s:.0f} rows/s, {summary.refused} refused"
            done_bytes = max(source.tell(), 1) if size_bytes else 0
            if console.is_terminal:
                bar.update(task, description=text, completed=done_bytes)
            elif size_bytes:
                say(f"{text}, {elapsed_s * (size_bytes - done_bytes) / done_bytes:.0f} s to go")
            else:
                say(text)

        yield show


class _Due:
    """True when the last line was printed long enough ago."""

    def __init__(self) -> None:
        self._last_s = time.monotonic()

    def __call__(self) -> bool:
        now_s = time.monotonic()
        if now_s - self._last_s < _PLAIN_EVERY_S:
            return False
        self._last_s = now_s
        return True
