"""What came for a partition while nobody had it: commands, then callbacks, all before the first lead.

Who paused a lane then means it, and a lead that has its answer must be neither sent again nor called overdue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from stream_app.domain.errors import BrokerUnavailable, StateStoreError
from stream_app.domain.topics import TopicNames
from stream_app.partition.in_flight import InFlight, Source
from stream_app.partition.markers import ProcessedMarkers
from stream_app.partition.ports import StateStore

_READ: Final = 2_000  # records at once: memory stays flat however many wait
_AT_ONCE: Final[dict[Source, int]] = {"command": 1, "callback": 200}
_PAUSE_S: Final = 1.0


class Bootstrap:
    """`takers` take a record, by its source; `trouble` is told when Kafka cannot be read, which is then tried again."""

    def __init__(
        self,
        topics: TopicNames,
        ledger: StateStore,
        marks: ProcessedMarkers,
        takers: Mapping[Source, Callable[[InFlight], Coroutine[Any, Any, None]]],
        trouble: Callable[[Exception], None],
    ) -> None:
        self._topics = topics
        self._ledger = ledger
        self._markers = marks
        self._takers = takers
        self._trouble = trouble

    async def run(self) -> bool:
        """Take all of them. False when a commit failed: the partition is taken over again, and this begins anew."""
        done = False
        try:
            await self._each(self._topics.commands, "command")
            await self._each(self._topics.callbacks, "callback")
            done = True
        except* StateStoreError:
            pass  # the committer has told already
        return done

    async def _each(self, topic: str, source: Source) -> None:
        """They come to `serve` as well, sooner or later: whichever is first concludes them."""
        offset, more = self._markers.passed(topic), True
        while more:
            try:
                found = await self._ledger.waiting(topic, offset, _READ)
            except BrokerUnavailable as error:
                self._trouble(error)
                await asyncio.sleep(_PAUSE_S)
                continue
            for first in range(0, len(found), _AT_ONCE[source]):
                async with asyncio.TaskGroup() as walking:
                    for consumed in found[first : first + _AT_ONCE[source]]:
                        if not self._markers.is_passed(consumed):
                            walking.create_task(self._takers[source](InFlight(consumed, source, asyncio.Event())))
            more = len(found) == _READ
            offset = found[-1].offset + 1 if found else offset
