"""The rows of one partition in memory, as bytes, and the end of those that no longer count.

A final row counts for the freshness window and is then deleted, with the alias that leads to it; an open one never is.
Nothing is ever scanned: keys stand in a queue in the order in which they came, and each step looks at its head.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from stream_app.core.delivery import ROW_VERSION, Delivery
from stream_app.core.errors import StreamAppError
from stream_app.core.lane import LANE_VERSION, Lane
from stream_app.core.story import Rows as Changes

_LOOKED_AT: Final = 4  # heads a step: more than a step adds, so the queue is worked off
_AGING: Final = (b"d/", b"p/")
_row_decoder: Final = msgspec.json.Decoder(Delivery)
_lane_decoder: Final = msgspec.json.Decoder(Lane)


class RowUnreadable(StreamAppError):
    """A row of the state topic cannot be used: nothing is served from a state that is only half understood."""


class Rows:
    """Key -> value. `freshness_ms`: how long a final delivery row counts."""

    def __init__(self, freshness_ms: int) -> None:
        self._freshness_ms = freshness_ms
        self._values: dict[bytes, bytes] = {}
        self._aging: deque[bytes] = deque()
        self._look_again_ms = 0

    def load(self, values: dict[bytes, bytes]) -> None:
        """Begin again with what a take-over has read, oldest first."""
        self._values = values
        self._aging = deque(key for key in values if key[:2] in _AGING)
        self._look_again_ms = 0

    def __contains__(self, key: bytes) -> bool:
        return key in self._values

    def get(self, key: bytes) -> bytes | None:
        """The row's bytes."""
        return self._values.get(key)

    def delivery(self, key: bytes) -> Delivery | None:
        """A lead's row. Raises RowUnreadable."""
        raw = self._values.get(key)
        return None if raw is None else read_delivery(key, raw)

    def apply(self, changes: Changes) -> None:
        """What a step changes."""
        for key, value in changes:
            if value is None:
                self._values.pop(key, None)
                continue
            if key not in self._values and key[:2] in _AGING:
                self._aging.append(key)
            self._values[key] = value

    def expired(self, now_ms: int) -> Changes:
        """Deletions to write with the next step: a few at most, those at the head of the queue."""
        gone: Changes = []
        if now_ms < self._look_again_ms:
            return gone
        for _ in range(min(_LOOKED_AT, len(self._aging))):
            key = self._aging[0]
            if key not in self._values:
                self._aging.popleft()
                continue
            row = self.delivery(self._values[key] if key.startswith(b"p/") else key)
            if row is not None and not row.final:
                self._aging.rotate(-1)
            elif row is not None and now_ms - row.at_ms <= self._freshness_ms:
                self._look_again_ms = row.at_ms + self._freshness_ms
                break
            else:
                self._aging.popleft()
                gone.append((key, None))
        return gone


def unreadable(key: bytes, why: str) -> RowUnreadable:
    """The error to raise for a row that does not decode."""
    return RowUnreadable(
        f"the row {_name(key)} of the state topic cannot be read ({why}): restore it, or write a tombstone for its key "
        "there, which makes the worker forget it (then a lead may be sent again, and a lane's budget begins at 0)"
    )


def _name(key: bytes) -> str:
    return key.decode("utf-8", "replace")


def read_delivery(key: bytes, raw: bytes) -> Delivery:
    """A delivery row from its bytes. Raises RowUnreadable."""
    try:
        row = _row_decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise unreadable(key, str(error)) from None
    if row.version > ROW_VERSION:
        raise RowUnreadable(
            f"the row {_name(key)} is of version {row.version}, this program knows {ROW_VERSION}: update it"
        )
    return row


def read_lane(key: bytes, raw: bytes) -> Lane:
    """A lane's row from its bytes. Raises RowUnreadable."""
    try:
        lane = _lane_decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise unreadable(key, str(error)) from None
    if lane.version > LANE_VERSION:
        raise RowUnreadable(
            f"the row {_name(key)} is of version {lane.version}, this program knows {LANE_VERSION}: update it"
        )
    return lane
