"""Bootstrap of a partition: process the commands, then the callbacks that came while no worker owned it.

All of them are processed before the first lead. A pause issued meanwhile takes effect before any lead is sent. A lead
with a callback is neither sent again nor reported as overdue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from stream_app.domain.errors import BrokerUnavailable, StateStoreError
from stream_app.domain.topics import TopicNames
from stream_app.partition.in_flight import InFlight, Limiter, Source
from stream_app.partition.markers import ProcessedMarkers
from stream_app.partition.ports import StateStore

_READ: Final = 2_000  # records at a time, so that memory is bounded
_PARALLEL: Final[dict[Source, int]] = {"command": 1, "callback": 200}
_PAUSE_S: Final = 1.0


class Bootstrap:
    """Processes the pending commands and callbacks of one partition.

    `limiter` counts them. `unavailable` is called when Kafka cannot be read, which is then tried again.
    """

    def __init__(
        self,
        topics: TopicNames,
        store: StateStore,
        markers: ProcessedMarkers,
        pipelines: Mapping[Source, Callable[[InFlight], Coroutine[Any, Any, None]]],
        limiter: Limiter,
        unavailable: Callable[[Exception], None],
    ) -> None:
        self._topics = topics
        self._store = store
        self._markers = markers
        self._pipelines = pipelines
        self._limiter = limiter
        self._unavailable = unavailable

    async def run(self) -> bool:
        """Process all of them.

        Returns:
            False if a commit failed. The partition is then taken over again, and bootstraps again.
        """
        try:
            await self._each(self._topics.commands, "command")
            await self._each(self._topics.callbacks, "callback")
        except* StateStoreError:
            pass  # the committer has reported it
        else:
            return True
        return False

    async def _each(self, topic: str, source: Source) -> None:
        """Process the records of one topic. `serve` gets them too: the first of the two concludes a record."""
        offset, more = self._markers.passed(topic), True
        while more:
            try:
                found = await self._store.waiting(topic, offset, _READ)
            except BrokerUnavailable as error:
                self._unavailable(error)
                await asyncio.sleep(_PAUSE_S)
                continue
            for first in range(0, len(found), _PARALLEL[source]):
                async with asyncio.TaskGroup() as group:
                    for consumed in found[first : first + _PARALLEL[source]]:
                        if not self._markers.is_passed(consumed):
                            in_flight = InFlight(consumed, source, asyncio.Event(), self._limiter)
                            group.create_task(self._pipelines[source](in_flight))
            more = len(found) == _READ
            offset = found[-1].offset + 1 if found else offset
