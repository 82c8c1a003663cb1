"""Acks of one topic in order: only the finished, gap-free prefix is acked, so a crash loses nothing (hazard 1)."""

from __future__ import annotations

from collections import deque

from stream_app.partition.in_flight import InFlight
from stream_app.partition.ports import PartitionStream


class AckTracker:
    """The walks of one inlet in the order in which they were taken."""

    def __init__(self, stream: PartitionStream) -> None:
        self._inlet = stream
        self._unfinished: deque[InFlight] = deque()
        self._broken = False
        self._acking = False

    def add(self, in_flight: InFlight) -> None:
        self._unfinished.append(in_flight)

    async def finish(self, in_flight: InFlight) -> None:
        """It is concluded: ack it and what was finished behind it, unless something before it is still under way."""
        in_flight.finished = True
        if self._broken:
            self.give_up(in_flight)
            return
        if self._acking:  # by another walk's finish, which takes this one along: acks never overtake each other
            return
        self._acking = True
        while self._unfinished and self._unfinished[0].finished:
            await self._inlet.ack(self._unfinished.popleft().consumed)
        self._acking = False

    def give_up(self, in_flight: InFlight) -> None:
        """It comes again, and so does all that was finished behind it: an ack of that would skip this one."""
        self._broken = True
        self._inlet.give_up(in_flight.consumed)
        behind = False
        for other in self._unfinished:
            behind = behind or other is in_flight
            if behind and other.finished:
                self._inlet.give_up(other.consumed)
