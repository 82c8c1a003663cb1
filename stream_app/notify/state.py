"""The file with the alerts of which the receiver knows. One process at a time owns it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from stream_app.notify.watch import Alert
from stream_app.ops.file_lock import lock_for_writing

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
    if_locked = "another `stream-app notify` sends from here: run one, or every message comes twice"
    with lock_for_writing(path, "the alerts that were sent", "notify.state_path", if_locked):
        yield KnownAlerts(path)
