"""Files that commands write."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkstemp
from typing import IO, Final, Literal, TypeVar, cast

from stream_app.domain.errors import SettingsError
from stream_app.domain.text import for_terminal

STDIO: Final = Path("-")

_T = TypeVar("_T")


def format_of(file: Path) -> Literal["csv", "jsonl"]:
    """Return the format of a file by its name."""
    return "jsonl" if file.suffix in (".jsonl", ".ndjson", ".json") else "csv"


@contextmanager
def private_file(path: Path) -> Iterator[IO[str]]:
    """Open a file for personal data that only its owner can read. `-` is stdout, sanitised on a terminal.

    The text is written to a new file with a random name in the same directory, which is renamed to `path` at the end.
    An error therefore leaves an older file unchanged, and a link planted at `path` is replaced and not followed.

    Raises:
        SettingsError: The file cannot be written.
    """
    if path == STDIO:
        yield cast("IO[str]", _Terminal(sys.stdout)) if sys.stdout.isatty() else sys.stdout
        return
    if path.exists() and not path.is_file():  # such as a pipe
        with open(_explained(path, lambda: os.open(path, os.O_WRONLY)), "w", encoding="utf-8") as file:
            yield file
        return
    descriptor, name = _explained(path, lambda: mkstemp(".part", f".{path.name[:100]}.", path.absolute().parent))
    part = Path(name)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            yield file
        _explained(path, lambda: part.replace(path))
    except BaseException:
        part.unlink(missing_ok=True)
        raise


class _Terminal:
    """A terminal, written to without control characters."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out

    def write(self, text: str) -> int:
        return self._out.write(for_terminal(text))


def _explained(path: Path, do: Callable[[], _T]) -> _T:
    try:
        return do()
    except OSError as error:
        raise SettingsError([f"{path}: cannot be written: {error.strerror}"]) from None
