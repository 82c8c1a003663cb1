"""The files that `stream-app publish` writes: refused rows, and the ids of leads. Only their owner can read them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import msgspec

from stream_app.cli.base import say
from stream_app.cli.files import STDIO, format_of, private_file
from stream_app.domain.errors import StreamAppError
from stream_app.domain.text import for_spreadsheet
from stream_app.publishing import Ready, Refusal

SHOWN_ROWS: Final = 20
_REJECTED: Final = ".rejected.jsonl"
_TITLES: Final = ("line", "workspace", "destination", "lead_id", "given_id")


class Rejects:
    """Refused rows as JSON Lines: line, reason and the row itself. An older file is removed when there are none.

    A context manager. A dry run touches no file: its first refused rows are kept, and shown.
    """

    def __init__(self, file: Path, *, dry_run: bool) -> None:
        self.path = Path(f"{'stdin' if file == STDIO else file}{_REJECTED}")
        self._dry_run = dry_run
        self._kept: list[Refusal] = []
        self._count = 0
        self._stack = ExitStack()
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        if not self._dry_run:
            with _explained(self.path):
                self.path.unlink(missing_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _explained(self.path):
            self._stack.__exit__(kind, exc, trace)

    def add(self, refusal: Refusal) -> None:
        """Keep or write a refused row."""
        self._count += 1
        if self._dry_run:
            if len(self._kept) < SHOWN_ROWS:
                self._kept.append(refusal)
            return
        with _explained(self.path):
            if self._file is None:
                self._file = self._stack.enter_context(private_file(self.path))
            self._file.write(msgspec.json.encode(refusal).decode() + "\n")

    def show(self) -> None:
        """Print the refused rows that a dry run has kept."""
        for refusal in self._kept:
            say(f"line {refusal.line}: {refusal.reason}: {refusal.text}")
        if self._dry_run and self._count > len(self._kept):
            say(f"and {self._count - len(self._kept)} more")


def write_ids(path: Path | None, leads: Iterable[Ready]) -> None:
    """Write the id of each lead with the line of its row and the id in the row ('' if none). No path: do nothing."""
    if path is None:
        return
    form = format_of(path)
    with private_file(path) as out, _explained(path):
        table = csv.writer(out, lineterminator="\n")
        if form == "csv":
            table.writerow(_TITLES)
        for lead in leads:
            cells = (lead.line, lead.workspace, lead.destination, lead.lead_id, lead.given)
            if form == "csv":
                table.writerow([for_spreadsheet(str(cell)) for cell in cells])
            else:
                out.write(msgspec.json.encode(dict(zip(_TITLES, cells, strict=True))).decode() + "\n")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise StreamAppError(f"{path}: cannot be written: {exc.strerror}") from exc
