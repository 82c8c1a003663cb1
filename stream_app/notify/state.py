"""The file with the alerts of which the receiver knows. One process at a time owns it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from stream_app.domain.errors import StreamAppError
from stream_app.notify.watch import Alert

_alerts: Final = msgspec.json.Decoder(list[Alert])


class KnownAlerts:
    """The file's content. `owned` makes one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[Alert]:
        """Return the alerts. A file that is missing, or was damaged, has none: what fires is sent once more."""
        try:
            return _alerts.decode(self._path.read_bytes())
        except (FileNotFoundError, msgspec.DecodeError):
            return []

    def write(self, alerts: Iterable[Alert]) -> None:
        """Replace the file in one step."""
        new = self._path.with_suffix(".new")
        with new.open("wb") as file:
            file.write(msgspec.json.encode(list(alerts)))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)


@contextmanager
def owned(path: Path) -> Iterator[KnownAlerts]:
    """Own the file until the block ends.

    Raises:
        StreamAppError: Another process owns it, or it cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = path.with_suffix(".lock").open("wb")
    except OSError as error:
        raise StreamAppError(
            f"{path}: cannot be written ({error.strerror}): set notify.state_path to a writable file"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StreamAppError(
                f"{path}: another `stream-app notify` sends from here: run one, or every message comes twice"
            ) from None
        yield KnownAlerts(path)
