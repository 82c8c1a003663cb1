"""Progress of reading a file, on stderr: a bar on a terminal, elsewhere a line every few seconds."""

from __future__ import annotations

import os
import stat
import time
from types import TracebackType
from typing import IO, TYPE_CHECKING, Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from stream_app.cli.base import say
from stream_app.domain.plural import count

if TYPE_CHECKING:
    from stream_app.publishing import Summary

_PLAIN_EVERY_S: Final = 5.0


class RowProgress:
    """Shows rows per second since the start, and the time left by the bytes read."""

    def __init__(self, source: IO[bytes]) -> None:
        status = os.fstat(source.fileno())
        self._source = source
        self._size_bytes = status.st_size if stat.S_ISREG(status.st_mode) else None
        self._began_s = self._said_s = time.monotonic()
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._live = console.is_terminal
        self._task = self._bar.add_task("0 rows", total=self._size_bytes)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, summary: Summary) -> None:
        now_s = time.monotonic()
        if not self._live and now_s - self._said_s < _PLAIN_EVERY_S:
            return
        self._said_s = now_s
        elapsed_s = max(now_s - self._began_s, 0.001)
        text = f"{count(summary.rows, 'row')}, {summary.rows / elapsed_s:.0f} rows/s, {summary.refused} refused"
        if self._live:
            done = self._source.tell() if self._size_bytes else None
            self._bar.update(self._task, description=text, completed=done)
        else:
            say(text + self._eta(elapsed_s))

    def _eta(self, elapsed_s: float) -> str:
        if not self._size_bytes:
            return ""
        done_bytes = max(self._source.tell(), 1)
        return f", {elapsed_s * (self._size_bytes - done_bytes) / done_bytes:.0f} s to go"
