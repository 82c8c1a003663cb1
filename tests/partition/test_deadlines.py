"""The queue of leads that wait for a callback reads only its heads; markers go when their records are passed."""

import msgspec

from stream_app.domain.delivery.state_machine import Delivery, delivery_key, mark_key
from stream_app.partition.deadlines import DeadlineQueue
from stream_app.partition.lanes import Lanes
from stream_app.partition.rows import Rows
from tests.partition.test_committer import Silent
from tests.partition.virtual import VirtualClock, consumed, virtual_time
from tests.simulation.schedule import Setup, plan_of

MANY = 50_000
AT_ONCE = 200


class Looks(Rows):
    """Counts how often a row is looked at."""

    looks = 0

    def delivery(self, key: bytes) -> Delivery | None:
        self.looks += 1
        return super().delivery(key)


def key(number: int) -> bytes:
    return delivery_key("acme", "acme-main", f"id{number}")


def values() -> dict[bytes, bytes]:
    """In no order; the one with number n was accepted at n."""
    row = Delivery(1, "accepted", "leads/0/1", 3, 0, 0, "t")
    numbers = (number * 7_919 % MANY for number in range(MANY))
    return {key(n): msgspec.json.encode(msgspec.structs.replace(row, at_ms=n)) for n in numbers}


@virtual_time
async def test_only_the_heads_of_the_queues_are_read() -> None:
    plan = plan_of(Setup())
    rows = Looks(0, 10**12)
    rows.load(values())
    awaiting = DeadlineQueue(plan, rows, Lanes(0, plan, VirtualClock(), Silent()))
    await awaiting.load()
    wait_ms = int(plan.destinations["acme-main"].callback_deadline_s * 1000)
    rows.looks = 0
    for _ in range(10):
        assert awaiting.next_ms() == wait_ms
        assert awaiting.pop_due(wait_ms - 1, AT_ONCE) == []
    assert rows.looks <= 2 * 10
    rows.looks = 0
    assert awaiting.pop_due(wait_ms + MANY, AT_ONCE) == [key(number) for number in range(AT_ONCE)]
    assert rows.looks <= AT_ONCE + 1
    assert len(awaiting) == MANY - AT_ONCE


def test_only_passed_markers_are_deleted_and_the_offset_is_written_with_them() -> None:
    marks = Rows(0, 10**12)
    for offset in (3, 1, 7):
        marks.apply([(mark_key(f"leads/0/{offset}"), b"1")])
    assert marks.drop_passed(lambda topic: None) == []
    assert marks.drop_passed(lambda topic: 3) == []  # the first in order of time is not passed: no search behind it
    rows = marks.drop_passed(lambda topic: 5)
    assert rows == [(b"o/leads/0/3", None), (b"o/leads/0/1", None), (b"c/leads", b"5")]
    assert marks.is_passed(consumed(4))
    assert not marks.is_passed(consumed(5))


def test_a_topic_without_a_stream_delays_no_other() -> None:
    marks = Rows(0, 10**12)
    marks.apply([(mark_key("leads.bulk/0/1"), b"1")])
    marks.apply([(mark_key("leads/0/1"), b"1")])
    rows = marks.drop_passed({"leads": 2}.get)
    assert (b"o/leads/0/1", None) in rows
    assert (b"o/leads.bulk/0/1", None) not in rows


def test_the_marker_of_another_partition_stays() -> None:
    marks = Rows(0, 10**12)
    marks.apply([(mark_key("leads/1/1"), b"1")])
    assert marks.drop_passed(lambda topic: 100) == []


def test_a_take_over_reads_markers_and_offsets() -> None:
    marks = Rows(0, 10**12)
    rows = {b"o/leads/0/8": b"1", b"c/leads": b"6", b"d/acme/main/a": b"..."}
    marks.load(rows)
    assert rows.keys() == {b"o/leads/0/8", b"d/acme/main/a"}
    assert marks.is_passed(consumed(5))
    assert marks.drop_passed(lambda topic: 9) == [(b"o/leads/0/8", None), (b"c/leads", b"9")]
