"""What a terminal shows besides lines: tables that fit its width, bars of progress.

A narrow terminal shows fewer columns. A pipe gets all columns with one line per row, and a line of
progress every few seconds.
"""

import os
import stat
import textwrap
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from typing import IO, Final, TypeVar

import msgspec
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from stream_app.cli.output import console, say
from stream_app.client.publish.leads import PublishSummary
from stream_app.domain.model.text import count, for_terminal

T = TypeVar("T")

_GAP: Final = "  "
_MIN_PROSE_WIDTH: Final = 24
"""Minimum width of a prose column."""
_MAX_WORD_WIDTH: Final = 40
"""A longer word, such as a URL, may exceed its column."""


class Column(msgspec.Struct, frozen=True):
    """A column of a table."""

    title: str  # the header
    rank: int = 0  # 0 is always shown; on a narrow terminal the highest rank is left out first
    right: bool = False  # align cells to the right
    prose: bool = False  # cells may wrap between words


Cells = dict[Column, list[str]]
"""Column -> its title and its cells, from the top."""


class Table:
    """Rows of text under columns."""

    def __init__(self, *columns: Column, title: str = "") -> None:
        self.title = title
        self.columns = columns
        self.rows: list[list[str]] = []

    def add(self, *cells: object) -> None:
        """Add a row. Line ends become spaces, and control characters are replaced."""
        self.rows.append([for_terminal(" ".join(str(cell).split())) for cell in cells])

    def show(self) -> None:
        """Print the table on stdout.

        The columns that a narrow terminal has no room for follow on stderr.
        """
        out = console()
        lines, left_out = lines_of(self, out.width if out.is_terminal else None)
        if self.title:
            out.print(Text(self.title, style="italic"))
        for number, line in enumerate(lines):
            out.print(Text(line, style="" if number else "bold"), soft_wrap=True)
        if left_out:
            say(
                f"not shown at this width: {', '.join(filter(None, left_out))} (a wider "
                "terminal or a pipe shows all)",
            )


def table_of(items: Iterable[T], columns: Mapping[Column, Callable[[T], object]]) -> Table:
    """Build a table with a row for each item.

    `columns` has the cell that each column shows of an item.
    """
    table = Table(*columns)
    for item in items:
        table.add(*(cell(item) for cell in columns.values()))
    return table


def lines_of(table: Table, width: int | None) -> tuple[list[str], list[str]]:
    """Format the header and the rows as lines, and return the titles of the columns left out.

    `width` is that of the terminal, in cells; None if the output is no terminal: nothing is left
    out or wrapped.
    """
    cells = {
        column: [column.title, *(row[at] for row in table.rows)]
        for at, column in enumerate(table.columns)
    }
    shown = _chosen(cells, width)
    left_out = [column.title for column in cells if column not in shown]
    widths = _widths(shown, width)
    if width is not None and _total(widths.values()) > width:
        return _stacked(shown), left_out
    wrapped = [
        [_wrapped(cell, widths[column]) for cell in texts] for column, texts in shown.items()
    ]
    lines = [
        _GAP.join(map(_padded, parts, shown, widths.values())).rstrip()
        for row in zip(*wrapped, strict=True)
        for parts in zip_longest(*row, fillvalue="")
    ]
    return lines, left_out


def _chosen(cells: Cells, width: int | None) -> Cells:
    """Return the columns that fit."""
    if width is None:
        return cells
    shown = dict(cells)
    least = {column: _least(column, texts) for column, texts in cells.items()}
    while _total([least[column] for column in shown]) > width:
        last = max(reversed(shown), key=lambda column: column.rank)
        if last.rank == 0:
            break
        del shown[last]
    return shown


def _least(column: Column, cells: list[str]) -> int:
    natural = max(map(cell_len, cells))
    if not column.prose:
        return natural
    longest = max((cell_len(word) for cell in cells for word in cell.split()), default=0)
    return min(natural, max(_MIN_PROSE_WIDTH, min(longest, _MAX_WORD_WIDTH)))


def _widths(cells: Cells, width: int | None) -> dict[Column, int]:
    """Return each column's width. Prose columns share the space that the others leave."""
    widths = {column: max(map(cell_len, texts)) for column, texts in cells.items()}
    if width is None:
        return widths
    over = _total(widths.values()) - width
    for column in sorted(
        (column for column in cells if column.prose),
        key=lambda column: -widths[column],
    ):
        narrower = max(0, min(over, widths[column] - _least(column, cells[column])))
        widths[column] -= narrower
        over -= narrower
    return widths


def _stacked(cells: Cells) -> list[str]:
    """Format each row as a block of lines, for a terminal too narrow for the columns of rank 0."""
    (head, *titles), *rows = zip(*cells.values(), strict=True)
    lines = [head]
    for first, *others in rows:
        lines.append(first)
        labels = [f"{title}: " if title else "" for title in titles]
        lines += [f"  {label}{cell}" for label, cell in zip(labels, others, strict=True) if cell]
    return lines


def _total(widths: Collection[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _wrapped(cell: str, width: int) -> list[str]:
    if cell_len(cell) <= width:
        return [cell]
    return textwrap.wrap(cell, width, break_long_words=False, break_on_hyphens=False)


def _padded(cell: str, column: Column, width: int) -> str:
    space = " " * (width - cell_len(cell))
    return space + cell if column.right else cell + space


_PLAIN_EVERY_S: Final = 5.0


@contextmanager
def reading(what: str, unit: str = "offsets") -> Iterator[Callable[[int, int], None]]:
    """Show how much is read. Yields a function of the units done and the units in all."""
    console = Console(stderr=True)
    due = _Due()
    if not console.is_terminal:
        yield lambda done, total: say(f"{what}: {done} of {total} {unit}") if due() else None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def reading_rows(source: IO[bytes]) -> Iterator[Callable[[PublishSummary], None]]:
    """Show rows per second since the start, and the time left by the bytes read.

    Yields a function of the counts.
    """
    status = os.fstat(source.fileno())
    size_bytes = status.st_size if stat.S_ISREG(status.st_mode) else None
    console = Console(stderr=True)
    due = _Due()
    began_s = time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("0 rows", total=size_bytes)

        def show(summary: PublishSummary) -> None:
            if not console.is_terminal and not due():
                return
            elapsed_s = max(time.monotonic() - began_s, 0.001)
            text = (
                f"{count(summary.rows, 'row')}, {summary.rows / elapsed_s:.0f} rows/s, "
                f"{summary.refused} refused"
            )
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
