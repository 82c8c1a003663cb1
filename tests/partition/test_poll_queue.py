"""The queue of open runs: the first polls come first, and only the heads of the queues are read."""

import asyncio
from typing import Final

import msgspec

from stream_app.domain.delivery.state_machine import Delivery, delivery_key
from stream_app.partition.poll_queue import OpenRun, PollQueue
from stream_app.partition.rows import Rows
from tests.simulation.schedule import POLL_AFTER_S, Setup, plan_of
from tests.support.narrow import present
from tests.support.partition.virtual import virtual_time

MANY: Final = 20_000
FIRST_MS: Final = round(POLL_AFTER_S[0] * 1000)
SPREAD_MS: Final = FIRST_MS // 20


class CountedRows(Rows):
    """Counts how often a row is decoded."""

    decoded = 0

    def delivery(self, key: bytes) -> Delivery | None:
        self.decoded += 1
        return super().delivery(key)


def key_of(number: int, workspace: str = "acme") -> bytes:
    return delivery_key(workspace, f"{workspace}-main", f"id{number}")


def queue_of(*accepted_ms: int, workspace: str = "acme") -> tuple[PollQueue, CountedRows]:
    """Open runs `run_0` and so on, of POSTs that Clay accepted at these times."""
    rows = CountedRows(0, 10**12)
    row = Delivery(1, "accepted", "leads/0/1", 3, 0, 0, "t")
    rows.load(
        {
            key_of(number, workspace): msgspec.json.encode(
                msgspec.structs.replace(
                    row,
                    at_ms=at_ms,
                    accepted_at_ms=at_ms,
                    run=f"run_{number}",
                ),
            )
            for number, at_ms in enumerate(accepted_ms)
        },
    )
    queue = PollQueue(plan_of(Setup(routines=True)), rows)
    for number, at_ms in enumerate(accepted_ms):
        queue.add(key_of(number, workspace), f"run_{number}", at_ms)
    return queue, rows


def due(queue: PollQueue, now_ms: int) -> OpenRun:
    opened = queue.due("acme", now_ms)
    assert opened is not None
    return opened


@virtual_time
async def test_runs_are_due_in_the_order_of_their_polls_and_no_row_is_read_for_that() -> None:
    queue, rows = queue_of(*(number * 7_919 % MANY for number in range(MANY)))
    assert len(queue) == MANY
    assert queue.due("acme", FIRST_MS - 1) is None
    times_ms = []
    while (opened := queue.due("acme", FIRST_MS + SPREAD_MS + MANY)) is not None:
        times_ms.append(opened.due_ms)
        queue.take(opened)
        queue.close(opened)
    assert len(times_ms) == MANY
    assert times_ms == sorted(times_ms, key=lambda at_ms: at_ms or 0)
    assert rows.decoded == 0
    assert len(queue) == 0
    assert queue.next_ms("acme") is None


@virtual_time
async def test_lanes_have_queues_of_their_own() -> None:
    queue, _ = queue_of(0)
    queue.add(key_of(0, "beta"), "run_b", 1_000_000)
    assert due(queue, 10_000).run == "run_0"
    assert queue.due("beta", 10_000) is None
    assert queue.due("gamma", 10_000) is None
    assert set(queue.changed) == {"acme", "beta"}


@virtual_time
async def test_a_run_that_is_put_back_has_one_next_poll() -> None:
    queue, _ = queue_of(0, 0)
    for at_ms in (20_000, 21_000, 22_000):
        opened = due(queue, 10**9)
        queue.take(opened)
        queue.put_back(opened, at_ms)
    assert len(queue) == 2
    assert [queue.next_ms("acme")] == [21_000]
    assert queue.due("acme", 20_999) is None


@virtual_time
async def test_an_announced_run_is_due_now_and_again_if_it_was_asked_for_just_then() -> None:
    queue, _ = queue_of(0, 0)
    queue.hasten(key_of(1), 1)
    queue.hasten(key_of(1), 2)
    opened = due(queue, 2)
    assert opened.run == "run_1"
    queue.take(opened)
    assert queue.due("acme", 2) is None, "announced twice, polled once"
    queue.hasten(key_of(1), 3)
    queue.put_back(opened, 50_000)
    assert due(queue, 3) is opened, "it may have finished behind the question"
    queue.take(opened)
    queue.put_back(opened, 50_000)
    assert queue.due("acme", 3) is None
    queue.hasten(key_of(7), 3)


@virtual_time
async def test_an_announced_run_that_is_due_already_keeps_its_turn() -> None:
    queue, _ = queue_of(0, 1_000)
    queue.hasten(key_of(0), 10_000)
    assert due(queue, 10_000).run == "run_0"


@virtual_time
async def test_a_run_settles_no_lead_whose_row_or_destination_is_gone() -> None:
    queue, rows = queue_of(0)
    opened = due(queue, 10_000)
    waiting = present(queue.find(opened))
    assert waiting.row.run == "run_0"
    assert waiting.destination.alias == "acme-main"
    not_configured = msgspec.structs.replace(plan_of(Setup(routines=True)), destinations={})
    assert PollQueue(not_configured, rows).find(opened) is None
    rows.load({})
    assert queue.find(opened) is None


@virtual_time
async def test_a_run_takes_the_place_of_an_earlier_run_of_its_lead() -> None:
    """An operator sent the lead again, perhaps while Clay was asked for the earlier run."""
    queue, _ = queue_of(0)
    earlier = due(queue, 10_000)
    queue.take(earlier)
    queue.add(key_of(0), "run_again", 0)
    queue.put_back(earlier, 1)
    queue.close(earlier)
    assert len(queue) == 1
    assert due(queue, 10_000).run == "run_again"


@virtual_time
async def test_a_run_of_replaced_rows_is_not_put_back() -> None:
    queue, _ = queue_of(0)
    opened = due(queue, 10_000)
    queue.take(opened)
    queue.clear()
    queue.put_back(opened, 20_000)
    assert queue.due("acme", 10**9) is None
    assert len(queue) == 0


@virtual_time
async def test_a_wait_ends_with_a_change_or_after_its_time() -> None:
    queue, _ = queue_of()
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await queue.wait(2.0)
    assert loop.time() - began_s == 2.0
    loop.call_later(3.0, queue.add, key_of(0), "run_0", 0)
    await queue.wait(None)
    assert loop.time() - began_s == 5.0
