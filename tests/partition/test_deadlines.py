"""The queue of leads that wait for a callback reads only its heads."""

import asyncio
from typing import Any

import msgspec
import pytest

from stream_app.domain.delivery.recorder import CommitStep
from stream_app.domain.delivery.state_machine import Delivery, delivery_key
from stream_app.domain.model.messages import StatusEvent
from stream_app.partition.deadlines import DeadlineQueue
from stream_app.partition.intake import Intake
from stream_app.partition.lanes import Lanes
from stream_app.partition.ports import Observer
from stream_app.partition.rows import Rows
from tests.simulation.schedule import Setup, plan_of
from tests.support.partition.virtual import VirtualClock, virtual_time

MANY = 20_000
AT_ONCE = 200


class Looks(Rows):
    """Counts how often a row is looked at."""

    looks = 0

    def delivery(self, key: bytes) -> Delivery | None:
        self.looks += 1
        return super().delivery(key)


def key(number: int) -> bytes:
    return delivery_key("acme", "acme-main", f"id{number}")


def values(*numbers: int) -> dict[bytes, bytes]:
    """Rows of leads that were accepted at these times; without any, of many in no order."""
    row = Delivery(1, "accepted", "leads/0/1", 3, 0, 0, "t")
    times_ms = numbers or tuple(number * 7_919 % MANY for number in range(MANY))
    return {
        key(at_ms): msgspec.json.encode(msgspec.structs.replace(row, at_ms=at_ms))
        for at_ms in times_ms
    }


def waiting(rows: Rows, loaded: dict[bytes, bytes]) -> tuple[DeadlineQueue, int]:
    """A queue of the leads of these rows, and how long each of them waits."""
    plan = plan_of(Setup(callbacks=True))
    rows.load(loaded)
    deadline_s = plan.destinations["acme-main"].callback_deadline_s
    return DeadlineQueue(plan, rows, Lanes(0, plan, VirtualClock(), Observer(), Intake())), int(
        deadline_s * 1000,
    )


@virtual_time
async def test_a_new_owner_finds_the_leads_that_wait_among_those_that_do_not() -> None:
    done = Delivery(1, "enriched", "leads/0/0", 4, 0, 0, "t", final=True)
    others = {key(number): msgspec.json.encode(done) for number in (1, 3)}
    (first,) = values(2).items()
    (second,) = values(4).items()
    rows = dict(sorted([*others.items(), first, second]))
    awaiting, wait_ms = waiting(Rows(0, 10**12), rows)
    await awaiting.load()
    assert awaiting.pop_due(wait_ms + 5, AT_ONCE) == [key(2), key(4)]


@virtual_time
async def test_only_the_heads_of_the_queues_are_read() -> None:
    rows = Looks(0, 10**12)
    awaiting, wait_ms = waiting(rows, values())
    await awaiting.load()
    rows.looks = 0
    for _ in range(10):
        assert awaiting.next_ms() == wait_ms
        assert awaiting.pop_due(wait_ms - 1, AT_ONCE) == []
    assert rows.looks <= 2 * 10
    rows.looks = 0
    assert awaiting.pop_due(wait_ms + MANY, AT_ONCE) == [key(number) for number in range(AT_ONCE)]
    assert rows.looks <= AT_ONCE + 1
    assert len(awaiting) == MANY - AT_ONCE
    assert awaiting.pop_due(wait_ms + MANY // 2, MANY) == [
        key(number) for number in range(AT_ONCE, MANY // 2 + 1)
    ]
    assert len(awaiting.pop_due(wait_ms + MANY, MANY)) == MANY - MANY // 2 - 1
    assert len(awaiting) == 0
    assert awaiting.next_ms() is None
    assert awaiting.workspaces() == set()


@pytest.mark.parametrize(("callbacks", "waits"), [(True, 1), (False, 0)])
@pytest.mark.parametrize("status", ["accepted", "callback_overdue"])
@virtual_time
async def test_a_lead_waits_for_a_callback_if_its_destination_had_callbacks_when_it_was_sent(
    status: Any,
    callbacks: bool,
    waits: int,
) -> None:
    queue, _ = waiting(Rows(0, 10**12), {})
    event = StatusEvent("o#2", "id0", status, 2, 0, "o", due_at_ms=9 if callbacks else None)
    before = msgspec.structs.replace(event, id="o#1", status="sending", seq=1)
    queue.note(CommitStep([(key(0), b""), (b"p/acme/ada", b"id0")], [], [before, event]))
    assert len(queue) == (waits or status != "accepted")
    queue.note(CommitStep([(key(0), b"")], [], [event, before]))
    assert len(queue) == (waits or status != "accepted"), "only the last event counts"


@virtual_time
async def test_others_get_the_event_loop_while_the_queue_is_built_and_not_for_each_lead() -> None:
    queue, _ = waiting(Rows(0, 10**12), values())
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    turning = asyncio.create_task(turn())
    await queue.load()
    turning.cancel()
    assert 3 <= turns <= MANY // 1_000


@virtual_time
async def test_a_lead_is_due_at_its_deadline_and_not_before() -> None:
    queue, wait_ms = waiting(Rows(0, 10**12), values(0, 10, 10_000))
    await queue.load()
    assert [queue.pop_due(wait_ms + at_ms, AT_ONCE) for at_ms in (-1, 0, 9, 10)] == [
        [],
        [key(0)],
        [],
        [key(10)],
    ]
    assert len(queue) == 1
    assert queue.next_ms() == wait_ms + 10_000
    assert queue.workspaces() == {"acme"}
    queue.put_back([key(0), key(10_000)], wait_ms + 10)
    assert len(queue) == 2, "one that is not due yet is not put back"
    assert queue.next_ms() == wait_ms + 1_010, "one that is not due yet is not put back"
    assert [queue.pop_due(wait_ms + at_ms, AT_ONCE) for at_ms in (1_009, 1_010)] == [[], [key(0)]]
    queue.put_back([key(0), key(10)], wait_ms + 10)
    assert queue.pop_due(wait_ms + 10_000, 1) == [key(0)]
    assert queue.pop_due(wait_ms + 10_000, 2) == [key(10), key(10_000)]
    assert len(queue) == 0
    assert queue.next_ms() is None
    assert queue.workspaces() == set()


@virtual_time
async def test_a_wait_ends_at_the_deadline_after_the_longest_time_or_with_the_first_lead() -> None:
    queue, wait_ms = waiting(Rows(0, 10**12), values(0, 10))
    loop = asyncio.get_running_loop()

    async def waited(now_ms: int, longest_s: float) -> float:
        began_s = loop.time()
        await queue.wait(now_ms, longest_s)
        return round(loop.time() - began_s, 6)

    for number, more in enumerate((0, 10)):
        loop.call_later(3, queue.add, key(more), "accepted")
        assert await waited(wait_ms - 1_500, 60) == (1.5 if number else 3), (
            "only the first lead ends it"
        )
    await asyncio.sleep(3)
    assert await waited(wait_ms - 1_500, 1) == 1
    assert await waited(wait_ms + 5, 60) == 0.001


@virtual_time
async def test_a_lead_that_comes_in_the_turn_in_which_a_wait_begins_ends_it() -> None:
    rows = Rows(0, 10**12)
    queue, _ = waiting(rows, values(1))
    ended = asyncio.create_task(queue.wait(0, 60.0))
    asyncio.get_running_loop().call_soon(queue.add, key(1), "accepted")
    await asyncio.wait_for(ended, 1.0)
    assert len(queue) == 1
