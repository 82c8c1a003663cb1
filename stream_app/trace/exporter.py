"""Collects the events of leads, and sends the spans of those that rest.

An event's offset counts as done when the spans of its lead are sent or sampled out. After a crash the exporter starts
at the oldest event that is not done. It then makes the same spans with the same ids again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Final, Protocol

from structlog.typing import FilteringBoundLogger

from stream_app.domain.messages import StatusEvent
from stream_app.domain.trace import Sampling, Span, Value, is_at_rest, is_sampled, spans_of
from stream_app.trace.otlp import ReceiverUnavailable, SpansRefused

_AT_ONCE: Final = 500
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0

Placed = tuple[int, int, StatusEvent]
"""Partition, offset and event."""


class Receiver(Protocol):
    """Takes spans."""

    async def send(self, spans: Sequence[Span]) -> None:
        """Send them. Raises ReceiverUnavailable or SpansRefused."""


class Lead:
    """The events of one input record that are not exported yet.

    Attributes:
        partition: The partition of its events.
        offset: The offset of the first of them.
        last_ms: When the last of them was read.
    """

    __slots__ = ("events", "last_ms", "offset", "partition")

    def __init__(self, partition: int, offset: int, event: StatusEvent, now_ms: int) -> None:
        self.partition = partition
        self.offset = offset
        self.events = [event]
        self.last_ms = now_ms


class Exporter:
    """Turns events into spans.

    A lead without an event for `settle_ms` is exported as far as it has come. Its later spans follow with the same
    parent. `clay` has attributes of POSTs by destination. `commit` saves how far each partition is done. `count` is
    called with `sent` or `refused`, and a number of spans.
    """

    def __init__(
        self,
        sampling: Sampling,
        clay: Mapping[str, Mapping[str, Value]],
        settle_ms: int,
        receiver: Receiver,
        commit: Callable[[dict[int, int]], Awaitable[None]],
        count: Callable[[str, int], None],
        now_ms: Callable[[], int],
        log: FilteringBoundLogger,
    ) -> None:
        self._sampling = sampling
        self._clay = clay
        self._settle_ms = settle_ms
        self._receiver = receiver
        self._commit = commit
        self._count = count
        self._now_ms = now_ms
        self._log = log
        self._leads: OrderedDict[str, Lead] = OrderedDict()  # the one without an event for longest first
        self._open: defaultdict[int, OrderedDict[str, Lead]] = defaultdict(OrderedDict)  # the lowest offset first
        self._ends: dict[int, int] = {}

    async def run(self, batches: AsyncIterator[Sequence[Placed]]) -> None:
        """Export until the batches end. An empty batch gives the chance to export leads that rest."""
        async for batch in batches:
            for placed in batch:
                self._note(*placed)
            resting = list(self._resting(batch))
            spans = [span for lead in resting for span in self._spans_of(lead)]
            for first in range(0, len(spans), _AT_ONCE):
                await self._send(spans[first : first + _AT_ONCE])
            for lead in resting:
                origin = lead.events[0].origin
                del self._leads[origin], self._open[lead.partition][origin]
            if batch or resting:
                await self._commit(self.done())

    def done(self) -> dict[int, int]:
        """Return the offset by partition from which an exporter would have to start now."""
        oldest = {number: next(iter(leads.values())).offset for number, leads in self._open.items() if leads}
        return self._ends | oldest

    def _note(self, partition: int, offset: int, event: StatusEvent) -> None:
        self._ends[partition] = offset + 1
        lead = self._leads.get(event.origin)
        if lead is None:
            lead = Lead(partition, offset, event, self._now_ms())
            self._leads[event.origin] = self._open[partition][event.origin] = lead
        elif event.seq > lead.events[-1].seq:
            lead.events.append(event)
            lead.last_ms = self._now_ms()
            self._leads.move_to_end(event.origin)

    def _resting(self, batch: Sequence[Placed]) -> Iterator[Lead]:
        """Yield the leads to export. Only a lead of the batch can have come to rest since the one before."""
        quiet_since_ms = self._now_ms() - self._settle_ms
        yield from takewhile(lambda lead: lead.last_ms <= quiet_since_ms, self._leads.values())
        for origin in dict.fromkeys(event.origin for _, _, event in batch):
            lead = self._leads[origin]
            if lead.last_ms > quiet_since_ms and is_at_rest(lead.events[-1]):
                yield lead

    def _spans_of(self, lead: Lead) -> list[Span]:
        rested_ms = 0 if is_at_rest(lead.events[-1]) else self._settle_ms
        sampled = is_sampled(self._sampling, lead.events, rested_ms)
        return spans_of(lead.events, self._clay) if sampled else []

    async def _send(self, spans: list[Span]) -> None:
        """Send spans; wait while the receiver is away. Kafka keeps the events meanwhile."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await self._receiver.send(spans)
            except ReceiverUnavailable as error:
                self._log.warning("traces_wait", because=str(error), pause_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)
            except SpansRefused as error:
                self._log.error("traces_refused", because=str(error), spans=len(spans))
                self._count("refused", len(spans))
                return
            else:
                self._count("sent", len(spans))
                return
