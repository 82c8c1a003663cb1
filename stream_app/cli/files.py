"""Files that commands write. Only their owner can read them."""

import csv
import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import mkstemp
from typing import IO, Any, Final, Literal, Self, TypeVar, cast

import msgspec

from stream_app.cli.output import say
from stream_app.client.publish.leads import Ready, Refusal
from stream_app.domain.model.errors import SettingsError, StreamAppError
from stream_app.domain.model.text import for_spreadsheet, for_terminal

STDIO: Final = Path("-")
SHOWN_ROWS: Final = 20
_REJECTED: Final = ".rejected.jsonl"
_NO_ROOM: Final = frozenset({errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC})
_NOT_WRITTEN: Final = "{}: cannot be written: {}"
_TITLES: Final = ("line", "workspace", "destination", "lead_id", "given_id")

_T = TypeVar("_T")


def format_of(file: Path) -> Literal["csv", "jsonl"]:
    """Return the format of a file by its name."""
    return "jsonl" if file.suffix in (".jsonl", ".ndjson", ".json") else "csv"


@contextmanager
def private_file(path: Path) -> Iterator[IO[str]]:
    """Open a file for personal data that only its owner can read.

    `-` is stdout, sanitised on a terminal.

    The text is written to a new file with a random name in the same directory, which is renamed to
    `path` at the end. An error therefore leaves an older file unchanged, and a link planted at
    `path` is replaced and not followed.

    Raises:
        SettingsError: The file cannot be written.
        StreamAppError: There is no room for all of it.
    """
    if path == STDIO:
        yield cast("IO[str]", _Terminal(sys.stdout)) if sys.stdout.isatty() else sys.stdout
        return
    part: Path | None = None
    if path.exists() and not path.is_file():  # such as a pipe
        descriptor = _opening(path, lambda: os.open(path, os.O_WRONLY))
    else:
        descriptor, name = _opening(
            path,
            lambda: mkstemp(".part", f".{path.name[:100]}.", path.absolute().parent),
        )
        part = Path(name)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            yield file
        if part is not None:
            _opening(path, partial(part.replace, path))
    except BaseException as error:
        if part is not None:
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise StreamAppError(_NOT_WRITTEN.format(path, error.strerror)) from error
        raise


class _Terminal:
    """A terminal, written to without control characters."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out

    def write(self, text: str) -> int:
        return self._out.write(for_terminal(text))


def opened(path: Path) -> IO[bytes]:
    """Open a file to read it. Raises SettingsError if that cannot be done."""
    return _opening(path, lambda: path.open("rb"), "read")


def _opening(path: Path, do: Callable[[], _T], what: str = "written") -> _T:
    try:
        return do()
    except OSError as error:
        raise SettingsError([f"{path}: cannot be {what}: {error.strerror}"]) from None


class Rejects:
    """Refused rows as JSON Lines: line, reason and the row itself.

    An older file is removed when there are none.

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
            with _writing(self.path):
                self.path.unlink(missing_ok=True)
        return self

    def __exit__(self, *error: Any) -> None:
        with _writing(self.path):
            self._stack.__exit__(*error)

    def add(self, refusal: Refusal) -> None:
        """Keep or write a refused row."""
        self._count += 1
        if self._dry_run:
            if len(self._kept) < SHOWN_ROWS:
                self._kept.append(refusal)
            return
        with _writing(self.path):
            if self._file is None:
                self._file = self._stack.enter_context(private_file(self.path))
            self._file.write(msgspec.json.encode(refusal).decode() + "\n")

    def show(self) -> None:
        """Print the refused rows that a dry run has kept, all rows of one cause on one line."""
        alike: dict[tuple[str, str], list[str]] = {}
        for refusal in self._kept:
            alike.setdefault((refusal.reason, refusal.text), []).append(str(refusal.line))
        for (reason, text), lines in alike.items():
            say(f"{'line' if len(lines) == 1 else 'lines'} {', '.join(lines)}: {reason}: {text}")
        if self._dry_run and self._count > len(self._kept):
            say(f"and {self._count - len(self._kept)} more")


def write_ids(path: Path | None, leads: Iterable[Ready]) -> None:
    """Write the id of each lead with the line of its row and the id in the row ('' if none).

    No path: do nothing.
    """
    if path is None:
        return
    form = format_of(path)
    with private_file(path) as out:
        table = csv.writer(out, lineterminator="\n")
        if form == "csv":
            table.writerow(_TITLES)
        for lead in leads:
            cells = (lead.line, lead.workspace, lead.destination, lead.lead_id, lead.given)
            if form == "csv":
                table.writerow([for_spreadsheet(str(cell)) for cell in cells])
            else:
                out.write(
                    msgspec.json.encode(dict(zip(_TITLES, cells, strict=True))).decode() + "\n",
                )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StreamAppError(_NOT_WRITTEN.format(path, error.strerror)) from error
