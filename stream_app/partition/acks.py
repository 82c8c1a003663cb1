"""Acks of one topic in order. Only the finished prefix without gaps is acked, so a crash loses nothing.

A Faust ack commits its offset even if an earlier record is unfinished: see docs/reference/faust.md.
"""

from __future__ import annotations

from collections import deque

from stream_app.partition.in_flight import InFlight
from stream_app.partition.ports import PartitionStream


class AckTracker:
    """The records of one stream that are under way, in their order."""

    def __init__(self, stream: PartitionStream) -> None:
        self._stream = stream
        self._unfinished: deque[InFlight] = deque()
        self._broken = False
        self._acking = False

    def add(self, in_flight: InFlight) -> None:
        self._unfinished.append(in_flight)

    async def finish(self, in_flight: InFlight) -> None:
        """Ack a concluded record and those that were finished behind it, unless an earlier one is still under way."""
        in_flight.finished = True
        if self._broken:
            self.give_up(in_flight)
            return
        if self._acking:  # by another record's call, which includes this one: acks never overtake each other
            return
        self._acking = True
        while self._unfinished and self._unfinished[0].finished:
            await self._stream.ack(self._unfinished.popleft().consumed)
        self._acking = False

    def give_up(self, in_flight: InFlight) -> None:
        """Give a record up, so that it is delivered again. From then on nothing is acked: an ack could skip it."""
        self._stream.give_up(in_flight.consumed)
        if not self._broken:
            self._broken = True
            for other in self._unfinished:
                if other.finished:
                    self._stream.give_up(other.consumed)
