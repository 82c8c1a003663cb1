"""Where the records begin that no worker has taken. Every place that counts them begins there.

The offset that the workers' group has committed is not that place: it stands before the first
record that is not concluded, although others behind it are. So the owner of a partition says in the
views of its lanes how far it has read each topic, and how many of the records that it has read wait
without a step.
"""

from collections.abc import Iterable

from stream_app.domain.views.lane import LaneView, Position

Place = tuple[str, int]
"""A topic and a partition."""


def positions_of(views: Iterable[LaneView]) -> dict[Place, Position]:
    """Return the positions in the newest view of each partition.

    `views`: the last view of each lane.
    """
    newest: dict[int, LaneView] = {}
    for view in views:
        if view.partition not in newest or newest[view.partition].at_ms <= view.at_ms:
            newest[view.partition] = view
    return {
        (topic, number): position
        for number, view in newest.items()
        for topic, position in view.positions.items()
    }


def untaken_from(
    begin: int,
    end: int,
    committed: int | None,
    position: Position | None,
) -> Position:
    """Return from which offset on no record was taken, and how many before it were not.

    Args:
        begin: The first offset that Kafka keeps of the partition.
        end: The offset after its last record.
        committed: The committed offset of the workers' group. Every record before it is concluded.
        position: What the owner said last. It may be some time ago, if no worker owns the partition
            now.
    """
    known = Position(max(begin, committed or 0))
    if position is not None and position.offset > known.offset:
        known = position
    if known.offset > end:  # the topic was created again
        return Position(begin)
    return known
