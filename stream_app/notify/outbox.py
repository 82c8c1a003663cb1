"""Decides when a message goes out: each change once, grouped, not too often, later again if the receiver is away."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from stream_app.notify.messages import Change
from stream_app.notify.samples import Key
from stream_app.notify.watch import Alert

_FIRST_RETRY_MS: Final = 15_000
_LAST_RETRY_MS: Final = 600_000
Alerts = Mapping[tuple[str, Key], Alert]


class Outbox:
    """The difference between what fires and what the receiver knows. It needs no queue.

    Args:
        known: The alerts of which the receiver knows.
        interval_ms: At most one message in this time.
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
        """Record that it did not.

        Args:
            now_ms: The time.
            wait_ms: How long the receiver asks to wait.

        Returns:
            How long until the next attempt, in milliseconds.
        """
        backoff_ms = _FIRST_RETRY_MS << min(self._failures, 10)
        pause_ms = min(max(backoff_ms, wait_ms), _LAST_RETRY_MS)
        self._failures += 1
        self._next_ms = now_ms + pause_ms
        return pause_ms
