"""Waits until published leads are at rest, by their events on `leads.status`.

An event names the record that it belongs to (`origin`: topic, partition, offset). So a lead is recognised by the place
of its record, whatever its id is, and a duplicate in the same file has a final status of its own. Memory: one byte for
each lead, and some 200 for each batch that was sent.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from typing import Final, Protocol, get_args

from stream_app.domain.books.columns import MOVING, column
from stream_app.domain.messages import Status, StatusEvent

_STATUSES: Final[tuple[Status, ...]] = get_args(Status)
_NUMBER: Final[dict[Status, int]] = {status: number for number, status in enumerate(_STATUSES, 1)}
_NO_EVENT: Final = 0
_AT_REST: Final = 0x80
"""The bit that a byte has when its lead is at rest. The other seven are the number of its last status."""


class Follower(Protocol):
    """What yields new events, and an empty list now and then (`kafka.status_follower`)."""

    def batches(self) -> AsyncIterator[list[StatusEvent]]: ...


class PublishedLeads:
    """The last status of each lead that one command has published.

    `without_callbacks`: destinations that never call back. `accepted` is their leads' end.
    """

    def __init__(self, topic: str, without_callbacks: Collection[str]) -> None:
        self._topic = topic
        self._without_callbacks = without_callbacks
        self._batches: dict[int, list[tuple[int, bytearray]]] = {}
        self._leads = Counter[int]()

    def add(self, partition: int, offset: int, leads: int) -> None:
        """Add so many leads whose records begin at that offset.

        A negative offset is unknown: Kafka had the batch already, after an answer that was lost. These leads count, but
        none of their events can be recognised.
        """
        self._leads[_NO_EVENT] += leads
        if offset >= 0:
            insort(self._batches.setdefault(partition, []), (offset, bytearray(leads)))

    def apply(self, event: StatusEvent) -> None:
        """Take an event. Events of other records change nothing."""
        topic, partition, offset = _place(event.origin)
        if topic != self._topic:
            return
        batches = self._batches.get(partition, [])
        at = bisect_right(batches, offset, key=lambda batch: batch[0]) - 1
        if at < 0:
            return
        first, last = batches[at]
        if offset - first >= len(last):
            return
        stands_in = column(event.status, final=event.destination in self._without_callbacks)
        now = _NUMBER[event.status] | (_AT_REST if stands_in is not None and stands_in not in MOVING else 0)
        self._leads[last[offset - first]] -= 1
        self._leads[now] += 1
        last[offset - first] = now

    @property
    def total(self) -> int:
        """All leads that were added."""
        return self._leads.total()

    @property
    def at_rest(self) -> int:
        """Leads that have ended or wait for a human."""
        return sum(leads for code, leads in self._leads.items() if code & _AT_REST)

    @property
    def no_event(self) -> int:
        """Leads without any event: no worker has read them, as far as is known."""
        return self._leads[_NO_EVENT]

    def by_status(self, *, at_rest: bool) -> dict[Status, int]:
        """Leads by their last status, the most frequent first: those at rest, or those still under way."""
        return {
            _STATUSES[(code & ~_AT_REST) - 1]: leads
            for code, leads in self._leads.most_common()
            if leads and code != _NO_EVENT and bool(code & _AT_REST) is at_rest
        }


async def wait_for_rest(
    leads: PublishedLeads, follower: Follower, within_s: float, on_progress: Callable[[int, int], None]
) -> None:
    """Follow the leads until all are at rest, or until the time is over.

    `follower` begins before the first lead was published. `on_progress` gets (leads at rest, all leads) after each
    batch of events.

    Raises:
        BrokerUnavailable, UnreadableBatch: The events could not be read to the end.
    """
    if leads.at_rest == leads.total:
        return
    try:
        async with asyncio.timeout(within_s):
            async for events in follower.batches():
                for event in events:
                    leads.apply(event)
                on_progress(leads.at_rest, leads.total)
                if leads.at_rest == leads.total:
                    return
    except TimeoutError:
        return


def _place(origin: str) -> tuple[str, int, int]:
    topic, partition, offset = origin.rsplit("/", 2)
    return topic, int(partition), int(offset)
