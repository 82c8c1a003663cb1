"""How far the topics of the partition were read."""

from collections.abc import Iterable

from stream_app.domain.views.lane import Position
from stream_app.partition.in_flight import InFlight
from stream_app.partition.ports import RecordStream


class Intake:
    """How far the topics of the partition were read, and which of those records have no step yet.

    A record is taken with its first step, which writes an event, unless the transaction of that
    step fails. A record that an earlier owner took is taken here when its row shows that.
    """

    def __init__(self) -> None:
        self._streams: dict[str, RecordStream] = {}
        self._next: dict[str, int] = {}
        self._untaken: dict[str, set[InFlight]] = {}
        # The records that were taken since the last transaction began, and those that the
        # transaction under way takes, with the set to which a failure returns them.
        self._submitted: dict[InFlight, set[InFlight]] = {}
        self._written: dict[InFlight, set[InFlight]] = {}

    def begin(self, stream: RecordStream) -> None:
        """Note that a new assignment begins, which reads from the committed offset on."""
        self._streams[stream.topic] = stream
        self._next.pop(stream.topic, None)
        self._untaken[stream.topic] = set()

    def read(self, in_flight: InFlight) -> None:
        """Note that a record was read."""
        consumed = in_flight.consumed
        self._next[consumed.topic] = consumed.offset + 1
        self._untaken[consumed.topic].add(in_flight)

    def take(self, in_flight: InFlight) -> None:
        """Note that a record is taken or concluded.

        It may have been taken before. A record of the bootstrap was never read from a stream.
        """
        untaken = self._untaken.get(in_flight.consumed.topic)
        if untaken is not None and in_flight in untaken:
            untaken.remove(in_flight)
            self._submitted[in_flight] = untaken

    def begin_transaction(self) -> None:
        """Note that a transaction begins, which writes the steps that have taken records."""
        self._written = self._submitted
        self._submitted = {}

    def committed(self) -> None:
        """Note that the transaction under way is committed."""
        self._written = {}

    def lose(self) -> None:
        """Note that the transaction under way failed, with all steps in it and after it.

        So the records of these steps were not taken.
        """
        for in_flight, untaken in [*self._written.items(), *self._submitted.items()]:
            untaken.add(in_flight)
        self._written = {}
        self._submitted = {}

    def positions(self, topics: Iterable[str]) -> dict[str, Position]:
        """The positions in these topics, where they say more than the committed offset.

        A record that was given up counts as untaken until the next assignment, which reads it
        again.
        """
        positions: dict[str, Position] = {}
        for topic in topics:
            offset = self._next.get(topic, 0)
            if offset > self._committed(topic):
                positions[topic] = Position(offset, len(self._untaken[topic]))
        return positions

    def _committed(self, topic: str) -> int:
        stream = self._streams.get(topic)
        return (stream.committed() or 0) if stream is not None else 0
