"""When each record is acked."""

from collections import deque

from attrs import define, field

from stream_app.partition.in_flight import InFlight
from stream_app.partition.ports import RecordStream


@define(eq=False, repr=False)
class AckTracker:
    """The records of one stream that are not acked yet.

    Only the finished prefix is acked, so a crash loses nothing.

    A Faust ack commits its offset even if an earlier record is unfinished: see
    docs/reference/faust.md.
    """

    _stream: RecordStream
    _unacked: deque[InFlight] = field(init=False, factory=deque)
    _finished: set[InFlight] = field(init=False, factory=set)  # of those
    _broken: bool = field(init=False, default=False)
    _acking: bool = field(init=False, default=False)

    def add(self, in_flight: InFlight) -> None:
        self._unacked.append(in_flight)

    async def finish(self, in_flight: InFlight) -> None:
        """Ack a concluded record and those that were finished behind it.

        Nothing is acked while an earlier record is under way.
        """
        self._finished.add(in_flight)
        if self._broken:
            self.give_up(in_flight)
            return
        # by another record's call, which includes this one: acks never overtake each other
        if self._acking:
            return
        self._acking = True
        while self._unacked and self._unacked[0] in self._finished:
            first = self._unacked.popleft()
            self._finished.remove(first)
            await self._stream.ack(first.consumed)
        self._acking = False

    def give_up(self, in_flight: InFlight) -> None:
        """Give a record up, so that it is delivered again.

        From then on nothing is acked: an ack could skip it.
        """
        self._stream.give_up(in_flight.consumed)
        if not self._broken:
            self._broken = True
            for other in self._unacked:
                if other in self._finished:
                    self._stream.give_up(other.consumed)
