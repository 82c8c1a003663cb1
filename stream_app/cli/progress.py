"""Progress on stderr: a bar on a terminal, elsewhere a line every few seconds."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from stream_app.cli.base import say
from stream_app.client.publish import Summary
from stream_app.domain.text import count

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
def reading_rows(source: IO[bytes]) -> Iterator[Callable[[Summary], None]]:
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

        def show(summary: Summary) -> None:
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
