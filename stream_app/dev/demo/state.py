"""The state that is visible on Kafka: the events of `leads.status` and the lanes of `leads.lanes`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import msgspec
from aiokafka import TopicPartition

from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of
from stream_app.domain.lane.view import LaneView
from stream_app.domain.model.messages import Status, StatusEvent
from stream_app.kafka.readers import Reader
from stream_app.tasks import cancel

ANSWERED: Final[frozenset[Status]] = frozenset({"enriched", "partial", "no_data", "enrich_error"})
"""Clay has called back about the lead."""
AT_REST: Final[frozenset[Status]] = ANSWERED | {
    "rejected_invalid",
    "suppressed",
    "duplicate",
    "expired",
    "parked",
    "replaced",
}
"""The final states of a record."""
_OF_CALLBACKS: Final[frozenset[Status]] = frozenset({"callback_duplicate", "callback_unmatched"})
"""Statuses of a callback's own record."""

_event: Final = msgspec.json.Decoder(StatusEvent)
_view: Final = msgspec.json.Decoder(LaneView)


class DemoState:
    """Everything seen so far. `published` is the number of records on `leads`."""

    def __init__(self) -> None:
        self.published = 0
        self.following: asyncio.Task[None] | None = None
        self.lanes: dict[str, LaneView] = {}
        self.steps: Counter[Status] = Counter()
        self._last: dict[str, StatusEvent] = {}
        self._credits: Counter[str] = Counter()

    def check(self) -> None:
        """Raise the error that ended the reading of Kafka, if any."""
        if self.following is not None and self.following.done():
            self.following.result()

    def on_event(self, event: StatusEvent) -> None:
        self.steps[event.status] += 1
        self._credits[event.lead_id] += event.credits or 0
        if event.status not in _OF_CALLBACKS:
            self._last[event.origin] = event

    def on_lane(self, view: LaneView) -> None:
        self.lanes[view.workspace] = view

    @property
    def status_counts(self) -> Counter[Status]:
        """The number of records by their last status."""
        return Counter(event.status for event in self._last.values())

    @property
    def at_rest(self) -> bool:
        """True if every published record has a final status."""
        counts = self.status_counts
        return self.published > 0 and sum(counts[status] for status in AT_REST) >= self.published

    @property
    def answered(self) -> dict[str, int]:
        """Ids of the leads that Clay has called back about, with the credits booked for each."""
        ids = (event.lead_id for event in self._last.values() if event.status in ANSWERED)
        return {lead_id: self._credits[lead_id] for lead_id in ids}

    @property
    def parked(self) -> set[str]:
        """Ids of the leads that wait for a human."""
        return {event.lead_id for event in self._last.values() if event.status == "parked"}


@asynccontextmanager
async def followed(settings: Settings) -> AsyncIterator[DemoState]:
    """Yield the state, which follows Kafka until the block ends."""
    state, names = DemoState(), settings.names
    topics, partitions = (names.status, names.lanes), range(settings.kafka.partitions)
    async with Reader(connection_of(settings), fetch_max_wait_ms=100) as reader:
        starts = await reader.begins([TopicPartition(topic, number) for topic in topics for number in partitions])
        state.following = asyncio.create_task(_follow(reader, starts, state, names.status))
        try:
            yield state
        finally:
            await cancel([state.following])


async def _follow(reader: Reader, starts: Mapping[TopicPartition, int], state: DemoState, status: str) -> None:
    async for polled in reader.follow(starts, wait_ms=200):
        for tp, records in polled.items():
            for record in records:
                if tp.topic == status:
                    state.on_event(_event.decode(record.value))
                else:
                    state.on_lane(_view.decode(record.value))
