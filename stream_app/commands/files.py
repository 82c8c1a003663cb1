"""Files that commands read and write."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal


def format_of(file: Path) -> Literal["csv", "jsonl"]:
    """What a file's name says of what is in it."""
    return "jsonl" if file.suffix in (".jsonl", ".ndjson", ".json") else "csv"


@contextmanager
def private_file(path: Path) -> Iterator[IO[str]]:
    """To write to, `-` is stdout; nobody else is to read it: it holds personal data.

    A file is written beside its name and takes it at the end, so that one that was there is not lost to an error.
    Raises SettingsError.
    """
    if str(path) == "-":
        yield sys.stdout
        return
    if path.exists() and not path.is_file():  # such as a pipe
        with _opened(path, path) as file:
            yield file
        return
    whole = path.resolve()
    part = whole.with_name(f"{whole.name}.part")
    try:
        with _opened(part, path) as file:
            yield file
        part.replace(whole)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _opened(path: Path, named: Path) -> IO[str]:
    from stream_app.core.errors import SettingsError

    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        raise SettingsError([f"{named}: cannot be written: {error.strerror}"]) from None
    return open(descriptor, "w", encoding="utf-8")
