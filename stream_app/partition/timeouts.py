"""Moves leads on whose callback did not come in time, for as long as this process owns the partition."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from stream_app.domain.delivery.recorder import WriteBatch
from stream_app.domain.errors import BrokerUnavailable, StateStoreError
from stream_app.domain.policy import Plan
from stream_app.domain.record import ConsumedRecord
from stream_app.partition.ports import Archive, CallbackUrlProbe, Clock
from stream_app.partition.timeout import TimeoutPipeline
from stream_app.partition.unit_of_work import UnitOfWork

_BATCH: Final = 200  # leads that are moved on together
_LONGEST_SLEEP_S: Final = 60.0  # the wall clock may step while the loop's clock does not
_LISTENED_EVERY_MS: Final = 60_000
_RETRY_AFTER_S: Final = 5.0


class TimeoutSources(NamedTuple):
    """What a callback timeout needs from outside the partition."""

    archive: Archive
    probe: CallbackUrlProbe


class _EmptyArchive:
    """An archive without records."""

    async def fetch(self, record_ids: Sequence[str]) -> dict[str, ConsumedRecord]:
        return {}


async def _no_probe() -> str:
    return ""


NO_SOURCES: Final = TimeoutSources(_EmptyArchive(), _no_probe)
"""No record can be read again, and the callback URL is not tried."""


class TimeoutScheduler:
    """Calls `TimeoutPipeline` for the leads of one partition when they are due.

    `unavailable` is called when Kafka cannot be read. The leads are then tried again.
    """

    def __init__(
        self,
        plan: Plan,
        state: UnitOfWork,
        sources: TimeoutSources,
        clock: Clock,
        unavailable: Callable[[Exception], None],
    ) -> None:
        self._state = state
        self._clock = clock
        self._unavailable = unavailable
        self._pipeline = TimeoutPipeline(plan, state, sources.archive, sources.probe, clock)
        self._listened_ms = 0

    async def run(self) -> None:
        """Move leads on at their deadlines. Returns when a commit fails; `PartitionOwner` runs it again."""
        deadlines = self._state.deadlines
        try:
            await deadlines.load()
            while True:
                now_ms = self._clock.now_ms()
                due = deadlines.pop_due(now_ms, _BATCH)
                if due:
                    await self._move(due)
                else:
                    self._record_listening(now_ms)
                    await deadlines.wait(now_ms, _LONGEST_SLEEP_S)
        except StateStoreError:
            return  # the committer has reported it

    async def _move(self, keys: list[bytes]) -> None:
        try:
            await self._pipeline.mark_overdue(keys)
            await self._pipeline.park(keys)
        except BrokerUnavailable as error:
            self._unavailable(error)
            await asyncio.sleep(_RETRY_AFTER_S)
        self._state.deadlines.put_back(keys, self._clock.now_ms())  # those whose record could not be read

    def _record_listening(self, now_ms: int) -> None:
        """Write from time to time that a worker listens: a successor does not count the time in which none did."""
        if now_ms - self._listened_ms >= _LISTENED_EVERY_MS:
            self._listened_ms = now_ms
            for name in self._state.deadlines.workspaces():
                self._state.submit(WriteBatch([], [], [], name))
