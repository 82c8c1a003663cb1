"""What the receiver of messages knows: it decides when a message goes out, and a file keeps it over a restart.

Each change is sent once, grouped with others, not too often, and later again if the receiver is away.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from stream_app.notify.messages import Change
from stream_app.notify.samples import Key
from stream_app.notify.watch import Alert
from stream_app.ops.file_lock import lock_for_writing

_FIRST_RETRY_MS: Final = 15_000
_LAST_RETRY_MS: Final = 600_000
Alerts = Mapping[tuple[str, Key], Alert]
_alerts: Final = msgspec.json.Decoder(list[Alert])


class Outbox:
    """The difference between what fires and what the receiver knows. It needs no queue.

    There is at most one message in `interval_ms`.
    """

    def __init__(self, known: Iterable[Alert], interval_ms: int) -> None:
        self.known: Alerts = {alert.key: alert for alert in known}
        self._interval_ms = interval_ms
        self._next_ms, self._failures = 0, 0

    def may_send(self, now_ms: int) -> bool:
        """Return True if the last message or attempt is long enough ago."""
        return now_ms >= self._next_ms

    def waiting(self, firing: Alerts) -> Change:
        """Return what the receiver does not know."""
        return Change(
            [alert for key, alert in firing.items() if key not in self.known],
            [alert for key, alert in self.known.items() if key not in firing],
        )

    def sent(self, change: Change, now_ms: int) -> None:
        """Record that the receiver took the message."""
        gone = {alert.key for alert in change.resolved}
        kept = {key: alert for key, alert in self.known.items() if key not in gone}
        self.known = kept | {alert.key: alert for alert in change.fired}
        self._next_ms, self._failures = now_ms + self._interval_ms, 0

    def failed(self, now_ms: int, wait_ms: int = 0) -> int:
        """Record that it did not, and return how long until the next attempt, in milliseconds.

        `wait_ms`: how long the receiver asks to wait.
        """
        backoff_ms = _FIRST_RETRY_MS << min(self._failures, 10)
        pause_ms = min(max(backoff_ms, wait_ms), _LAST_RETRY_MS)
        self._failures += 1
        self._next_ms = now_ms + pause_ms
        return pause_ms


class KnownAlerts:
    """The file's content. `owned_alerts` makes one."""

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
def owned_alerts(path: Path) -> Iterator[KnownAlerts]:
    """Own the file until the block ends. Raises StreamAppError as `lock_for_writing`."""
    if_locked = "another `stream-app notify` sends from here: run one, or every message comes twice"
    with lock_for_writing(path, "the alerts that were sent", "notify.state_path", if_locked):
        yield KnownAlerts(path)
