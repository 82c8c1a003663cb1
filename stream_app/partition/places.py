"""The bounds on the records of a partition that are read ahead, and on those under way."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from stream_app.domain.plan import DeliveryPolicy

MAX_UNDER_WAY_BYTES: Final = 33_554_432
"""How many bytes the records under way in a partition may have, including those that wait."""
MAX_WAITING_BYTES: Final = 8_388_608
"""How many bytes the records that wait for their lanes may have, in a partition that workspaces
share.
"""
# Records that may be read ahead, for each lead that may wait for its lane: reading is far cheaper
# than processing.
_AHEAD: Final = 4
_PAUSE_EVERY: Final = 32  # Reading this many records takes about a millisecond.
_MAX_RELEASED: Final = 10  # records that may wait for a lock, for each place


class Limiter:
    """Bounds how many records are under way, by number and bytes.

    `enter` never refuses a record. The next one calls `wait` first, until a place is free.

    A record that waits for a lock gives its place up meanwhile, and ten records for each place may
    wait so. A record that waits for admission in a shared partition gives its place up, too,
    because `AdmissionQueue` bounds those.
    """

    def __init__(self, places: int) -> None:
        self._left = places
        self._left_released = places * _MAX_RELEASED
        self._left_bytes = MAX_UNDER_WAY_BYTES
        self._some = asyncio.Event()
        self._some.set()

    def enter(self, size: int = 0) -> None:
        """Take a place for a record of this many bytes."""
        self._left_bytes -= size
        self._count(-1, 0)

    def leave(self, size: int = 0) -> None:
        self._left_bytes += size
        self._count(1, 0)

    async def wait(self) -> None:
        """Wait until a place is free."""
        await self._some.wait()

    @contextmanager
    def released(self, counted: int = 1) -> Iterator[None]:
        """Give the place of a record up inside the `with` block.

        `counted`: 0 where something else bounds the records that wait so.
        """
        self._count(1, -counted)
        try:
            yield
        finally:
            self._count(-1, counted)

    def _count(self, places: int, released: int) -> None:
        self._left += places
        self._left_released += released
        if self._left > 0 and self._left_released > 0 and self._left_bytes > 0:
            self._some.set()
        else:
            self._some.clear()


class ReadAhead:
    """Bounds the records of one topic that were read and have not begun, by number and bytes."""

    def __init__(self, policy: DeliveryPolicy) -> None:
        self._records_left = policy.max_waiting * _AHEAD
        self._bytes_left = MAX_WAITING_BYTES
        self._some = asyncio.Event()
        self._some.set()
        self._since_pause = 0

    def enter(self, size: int) -> None:
        """Count a record of this many bytes."""
        self._count(-1, -size)

    def leave(self, size: int) -> None:
        self._count(1, size)

    async def wait(self) -> None:
        """Wait until one more record may be read, and let other tasks run now and then."""
        self._since_pause = (self._since_pause + 1) % _PAUSE_EVERY
        if not self._since_pause:
            await asyncio.sleep(0)
        await self._some.wait()

    def _count(self, records: int, size: int) -> None:
        self._records_left += records
        self._bytes_left += size
        if self._records_left > 0 and self._bytes_left > 0:
            self._some.set()
        else:
            self._some.clear()
