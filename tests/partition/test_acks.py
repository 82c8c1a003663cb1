"""Acks are in order and cover only the finished prefix, without gaps."""

import asyncio
from itertools import permutations

import pytest

from stream_app.partition.in_flight import AckTracker
from tests.partition.virtual import RecordingStream, in_flight, run


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_only_the_gap_free_prefix_is_acked(order: tuple[int, ...]) -> None:
    async def main() -> None:
        inlet = RecordingStream()
        acks = AckTracker(inlet)
        records = [in_flight(offset) for offset in range(4)]
        for each in records:
            acks.add(each)
        finished: set[int] = set()
        for offset in order:
            await acks.finish(records[offset])
            finished.add(offset)
            ready = next((gap for gap in range(4) if gap not in finished), 4)
            assert inlet.acked == list(range(ready))

    run(main())


def test_acks_that_take_their_time_do_not_overtake_each_other() -> None:
    async def main() -> None:
        inlet = RecordingStream(ack_s={0: 1.0, 1: 0.1})
        acks = AckTracker(inlet)
        records = [in_flight(offset) for offset in range(3)]
        for each in records:
            acks.add(each)
        await asyncio.gather(*map(acks.finish, records))
        assert inlet.acked == [0, 1, 2]

    run(main())


def test_nothing_behind_a_given_up_record_is_acked() -> None:
    async def main() -> None:
        inlet = RecordingStream()
        acks = AckTracker(inlet)
        first, second, third, fourth = records = [in_flight(offset) for offset in range(4)]
        for each in records:
            acks.add(each)
        await acks.finish(third)
        acks.give_up(second)
        await acks.finish(fourth)
        await acks.finish(first)
        assert inlet.acked == []
        assert sorted(set(inlet.given_up)) == [0, 1, 2, 3]

    run(main())
