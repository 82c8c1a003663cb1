"""The queue of leads that wait for their callback reads only the heads of its queues."""

import msgspec

from stream_app.domain.delivery.state_machine import Delivery, delivery_key
from stream_app.partition.deadlines import DeadlineQueue
from stream_app.partition.lanes import Lanes
from stream_app.partition.rows import Rows
from tests.partition.test_committer import Silent
from tests.partition.virtual import VirtualClock, run
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


def test_only_the_heads_of_the_queues_are_read() -> None:
    async def main() -> None:
        plan = plan_of(Setup())
        rows = Looks(10**12)
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

    run(main())
