"""When each record is acked."""

from collections import deque

from attrs import define, field

from stream_app.partition.in_flight import InFlight
from stream_app.partition.ports import RecordStream


@define(eq=False, repr=False)
class AckTracker:
    """The records of one stream that are not acked yet.

    Only the finished prefix is acked, so a crash loses nothing, whatever the stream commits. Stock
    Faust may commit the offset of an ack although an earlier record is unfinished
    (docs/reference/faust.md). The worker's consumer does not, but no record depends on that alone.
    """

    _stream: RecordStream
    _unacked: deque[InFlight] = field(init=False, factory=deque)
    _finished: set[InFlight] = field(init=False, factory=set)  # of the unacked ones
    _broken: bool = field(init=False, default=False)
    _acking: bool = field(init=False, default=False)

    def add(self, in_flight: InFlight) -> None:
        self._unacked.append(in_flight)

    async def finish(self, in_flight: InFlight) -> None:
        """Ack a concluded record, and the later ones that were finished before it.

        Nothing is acked while an earlier record is under way.
        """
        self._finished.add(in_flight)
        if self._broken:
            self.give_up(in_flight)
            return
        # The call of another record is acking, and its loop comes to this record, too. Only one
        # call acks at a time, so that acks never overtake each other.
        if self._acking:
            return
        self._acking = True
        while self._unacked and self._unacked[0] in self._finished:
            first = self._unacked.popleft()
            self._finished.remove(first)
            # A later record may be given up during this await. `give_up` then gives the finished
            # ones up, too, and for them the next acks of this loop do nothing.
            await self._stream.ack(first.consumed)
        self._acking = False

    def give_up(self, in_flight: InFlight) -> None:
        """Give a record up, so that it is delivered again.

        From then on nothing is acked, because an ack could skip it.
        """
        self._stream.give_up(in_flight.consumed)
        if not self._broken:
            self._broken = True
            for other in self._unacked:
                if other in self._finished:
                    self._stream.give_up(other.consumed)
