"""The requests that the partitions of a process share."""

import asyncio
from collections.abc import Collection
from contextlib import suppress

import pytest
from aiokafka.errors import KafkaConnectionError

from stream_app.kafka.cluster_view import Batched
from tests.support.pace import BUSY


class Counted:
    """A request that takes a second, and what each one was about."""

    def __init__(self) -> None:
        self.about: list[list[int]] = []
        self.answer = asyncio.Event()
        self.fails = False

    async def __call__(self, about: Collection[int]) -> int:
        self.about.append(sorted(about))
        number = len(self.about)
        await self.answer.wait()
        if self.fails:
            raise OSError(f"request {number}")
        return number


async def _asks(batched: Batched[int, int], *about: int) -> asyncio.Task[int]:
    task = asyncio.create_task(batched(about))
    for _ in range(5):
        await asyncio.sleep(0)
    return task


async def test_those_that_ask_at_the_same_time_share_a_request() -> None:
    asked = Counted()
    batched = Batched(asked)
    asked.answer.set()
    assert await asyncio.gather(*(batched([number, 0]) for number in range(64))) == [1] * 64
    assert asked.about == [list(range(64))]


async def test_an_answer_is_of_a_request_that_began_after_the_question() -> None:
    asked = Counted()
    batched = Batched(asked)
    first = await _asks(batched, 1)
    late, later = await _asks(batched, 1), await _asks(batched, 2)
    assert asked.about == [[1]]
    asked.answer.set()
    assert [await task for task in (first, late, later)] == [1, 2, 2]
    assert asked.about == [[1], [1, 2]]


async def test_a_failed_request_fails_for_those_that_shared_it_and_for_no_later_one() -> None:
    asked = Counted()
    batched = Batched(asked)
    first, late = await _asks(batched, 1), await _asks(batched, 2)
    asked.fails = True
    asked.answer.set()
    for task, number in ((first, 1), (late, 2)):
        with pytest.raises(OSError, match=f"request {number}"):
            await task
    asked.fails = False
    assert await batched([3]) == 3


async def test_a_lane_without_requests_takes_no_share_from_the_others() -> None:
    asked = Counted()
    batched = Batched(asked)
    impatient, patient = await _asks(batched, 1), await _asks(batched, 2)
    impatient.cancel()
    with suppress(asyncio.CancelledError):
        await impatient
    asked.answer.set()
    assert await patient == 2


@pytest.mark.parametrize("closed", [asyncio.CancelledError(), RuntimeError("the handler is closed")])
async def test_a_connection_that_closes_during_a_request_cancels_no_task(closed: BaseException) -> None:
    async def ask(_: Collection[int]) -> int:
        raise closed

    with pytest.raises(KafkaConnectionError, match="the connection was closed"):
        await Batched(ask)([1])


async def test_a_request_that_hangs_does_not_hold_up_later_questions() -> None:
    hangs = asyncio.Event()
    asked: list[set[int]] = []

    async def ask(about: Collection[int]) -> int:
        asked.append(set(about))
        if len(asked) == 1:
            await hangs.wait()
        return len(asked)

    batched = Batched(ask, patience_s=0.01)
    first = await _asks(batched, 1)
    await asyncio.sleep(0)
    async with asyncio.timeout(5 * BUSY):
        assert await batched([2]) == 2
    assert not first.done()
    assert asked == [{1}, {2}]
    hangs.set()
    assert await first == 2
