"""Locks on rows: copies are processed in the order of their records, share commits, and block no
other lead.
"""

import asyncio
from collections.abc import Callable
from itertools import pairwise
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.model.outcome import Outcome
from stream_app.partition.in_flight import InFlight, StreamSuspended
from stream_app.partition.key_locks import KeyLocks
from tests.simulation.schedule import Setup
from tests.support.partition.bench import Bench
from tests.support.partition.clay import SlowClay
from tests.support.partition.virtual import in_flight, virtual_time

COPIES = 1_000


def locks(recall: Callable[[InFlight], None] = lambda in_flight: None) -> KeyLocks:
    return KeyLocks(recall)


def keys(*names: str) -> tuple[bytes, ...]:
    return tuple(name.encode() for name in names)


def statuses(bench: Bench, offset: int) -> list[str]:
    """What became of a record."""
    return [event.status for event in bench.events(f"leads/0/{offset}")]


@virtual_time
async def test_records_that_share_a_key_are_decided_in_their_order() -> None:
    bench = Bench()
    bench.publish("C0", "p0")
    bench.publish("C1", "p0")  # waits for C0, which is of the same person
    bench.publish("C1", "p1")  # shares only its id with the second
    await bench.serve_for(20.0)
    [duplicate] = bench.events("leads/0/1")
    assert duplicate.status == "duplicate"
    assert duplicate.reason == "same_person"
    assert statuses(bench, 2) == ["received", "sending", "accepted"]
    assert bench.stream.committed() == 3


@virtual_time
async def test_copies_share_commits() -> None:
    """The first is written ahead and settled; all others share a commit with it or each other."""
    bench = Bench(Setup(max_in_flight=100))
    for number in range(COPIES):
        bench.publish(f"id{number}", "p0")
    with patch.object(bench.kafka, "end", wraps=bench.kafka.end) as end:
        await bench.serve_for(60.0)
    assert bench.states().count("duplicate") == COPIES - 1
    assert len(bench.clay.bodies) == 1
    assert end.call_count <= 10
    assert bench.stream.committed() == COPIES
    assert len(bench.partition.runner._unfinished) == 0


class Hangs(SlowClay):
    """Answers about the first lead after an hour."""

    async def send(self, destination: str, webhook_id: str, body: bytes, trace_id: str) -> Outcome:
        self._takes_s = 1.0 if self.bodies else 3_600.0
        return await super().send(destination, webhook_id, body, trace_id)


@virtual_time
async def test_others_do_not_wait_for_copies_of_a_lead_under_way() -> None:
    bench = Bench(Setup(max_in_flight=4, burst=1_000, rate_per_s=1_000.0), clay=Hangs)
    for number in range(100):  # many more than there are places
        bench.publish(f"copy{number}", "p0")
    for number in range(20):
        bench.publish(f"other{number}", f"q{number}")
    await bench.serve_for(60.0)
    assert bench.states().count("accepted") == 20
    await asyncio.sleep(3_600.0)
    assert bench.stream.committed() == 120


@virtual_time
async def test_a_callback_goes_before_leads_that_wait_and_recalls_the_one_that_holds_the_lock() -> (
    None
):
    recalled: list[InFlight] = []
    turns = locks(recalled.append)
    order = list[str]()
    first = in_flight(0)

    async def work(name: str, under_way: InFlight) -> None:
        async with turns.lock(under_way, lambda: keys("a")):
            order.append(name)

    async with turns.lock(first, lambda: keys("a")):
        copy = asyncio.create_task(work("copy", in_flight(1)))
        await asyncio.sleep(1.0)
        callback = asyncio.create_task(work("callback", in_flight(2, "callback")))
        await asyncio.sleep(1.0)
        assert recalled == [first]
    again = asyncio.create_task(work("again", first))
    await asyncio.gather(copy, callback, again)
    assert order == ["callback", "again", "copy"], "a recalled lead keeps its place"


@virtual_time
async def test_a_record_does_not_overtake_an_earlier_one_that_is_given_up_at_the_same_time() -> (
    None
):
    """The earlier one leaves the queue first, which gives the turn to the later one."""
    turns = locks()
    suspended = asyncio.Event()
    decided = list[int]()

    async def work(offset: int) -> None:
        async with turns.lock(in_flight(offset, suspended=suspended), lambda: keys("a")):
            decided.append(offset)

    async with turns.lock(in_flight(0, "retry"), lambda: keys("a")):
        waiting = [asyncio.create_task(work(offset)) for offset in (1, 2)]
        await asyncio.sleep(1.0)
        suspended.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert decided == []
    assert [type(answer) for answer in answers] == [StreamSuspended, StreamSuspended]


@virtual_time
async def test_keys_found_after_a_wait_are_waited_for_in_the_same_place() -> None:
    turns = locks()
    order = list[str]()
    wanted = keys("a")

    async def work(name: str, offset: int, *names: str) -> None:
        async with turns.lock(
            in_flight(offset),
            lambda: wanted if name == "grows" else keys(*names),
        ):
            order.append(name)
            await asyncio.sleep(1.0)

    tasks = [asyncio.create_task(work("first", 0, "a"))]
    await asyncio.sleep(0.1)
    tasks.append(asyncio.create_task(work("grows", 1)))
    tasks.append(asyncio.create_task(work("other", 2, "b")))
    await asyncio.sleep(0.1)
    tasks.append(asyncio.create_task(work("later", 3, "a", "b")))
    wanted = keys("a", "b")
    await asyncio.gather(*tasks)
    assert order == ["first", "other", "grows", "later"]


@virtual_time
async def test_a_record_that_waits_for_more_keys_is_not_overtaken_at_those_it_had() -> None:
    turns = locks()
    order = list[str]()
    wanted = keys("a")

    async def work(name: str, offset: int, needs: Callable[[], tuple[bytes, ...]]) -> None:
        async with turns.lock(in_flight(offset), needs):
            order.append(name)
            await asyncio.sleep(1.0)

    tasks = [asyncio.create_task(work("first", 0, lambda: keys("a")))]
    await asyncio.sleep(0.1)
    tasks.append(asyncio.create_task(work("grows", 1, lambda: wanted)))
    await asyncio.sleep(0.5)
    tasks.append(asyncio.create_task(work("other", 2, lambda: keys("b"))))
    tasks.append(asyncio.create_task(work("later", 3, lambda: keys("a"))))
    wanted = keys("a", "b")
    await asyncio.gather(*tasks)
    assert order == ["first", "other", "grows", "later"]


@given(
    st.lists(
        st.tuples(st.sets(st.sampled_from("abcd"), min_size=1), st.integers(0, 3), st.booleans()),
        max_size=12,
    ),
)
@virtual_time
async def test_any_records_hold_locks_exclusively_and_in_order(
    asked: list[tuple[set[str], int, bool]],
) -> None:
    """`asked`: keys, how long it works, whether it is cancelled while it waits or works."""
    turns = locks()
    inside = set[str]()
    entered = list[int]()

    async def work(number: int, names: set[str], takes_s: int) -> None:
        async with turns.lock(in_flight(number), lambda: keys(*sorted(names))):
            assert inside.isdisjoint(names)
            inside.update(names)
            entered.append(number)
            try:
                await asyncio.sleep(takes_s)
            finally:
                inside.difference_update(names)

    tasks = [
        asyncio.create_task(work(number, names, s)) for number, (names, s, _) in enumerate(asked)
    ]
    await asyncio.sleep(0.5)
    for task, (_, _, cancelled) in zip(tasks, asked, strict=True):
        if cancelled:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not any(task.exception() for task in tasks if not task.cancelled())
    for name in "abcd":
        of_it = [number for number in entered if name in asked[number][0]]
        assert all(before < after for before, after in pairwise(of_it))
    assert turns._holders == {}
    assert turns._queues == {}
