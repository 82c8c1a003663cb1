"""Acks go out in order and only over what is finished without a gap (hazard 1)."""

from __future__ import annotations

import asyncio
from itertools import permutations

import pytest

from stream_app.partition.acks import AckTracker
from tests.partition.virtual import NotingStream, in_flight, run


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_only_the_gap_free_prefix_is_acked(order: tuple[int, ...]) -> None:
    async def main() -> None:
        inlet = NotingStream()
        prefix = AckTracker(inlet)
        walks = [in_flight(offset) for offset in range(4)]
        for each in walks:
            prefix.add(each)
        finished: set[int] = set()
        for offset in order:
            await prefix.finish(walks[offset])
            finished.add(offset)
            ready = next((gap for gap in range(4) if gap not in finished), 4)
            assert inlet.acked == list(range(ready))

    run(main())


def test_acks_that_take_their_time_do_not_overtake_each_other() -> None:
    async def main() -> None:
        inlet = NotingStream(ack_s={0: 1.0, 1: 0.1})
        prefix = AckTracker(inlet)
        walks = [in_flight(offset) for offset in range(3)]
        for each in walks:
            prefix.add(each)
        await asyncio.gather(*map(prefix.finish, walks))
        assert inlet.acked == [0, 1, 2]

    run(main())


def test_nothing_behind_a_given_up_record_is_acked() -> None:
    async def main() -> None:
        inlet = NotingStream()
        prefix = AckTracker(inlet)
        first, second, third, fourth = walks = [in_flight(offset) for offset in range(4)]
        for each in walks:
            prefix.add(each)
        await prefix.finish(third)
        prefix.give_up(second)
        await prefix.finish(fourth)
        await prefix.finish(first)
        assert inlet.acked == []
        assert sorted(set(inlet.given_up)) == [0, 1, 2, 3]

    run(main())
