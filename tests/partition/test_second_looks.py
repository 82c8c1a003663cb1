"""What a partition reads again after a wait, because another record, an operator or a rebalance may
have changed it meanwhile.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeVar

import pytest

from stream_app.domain.delivery.state_machine import Delivery, mark_key, passed_key
from stream_app.domain.lead.identity import people
from stream_app.domain.model.outcome import Refused
from stream_app.domain.model.records import ConsumedRecord
from stream_app.domain.plan import Workspace
from stream_app.partition.in_flight import InFlight, StreamSuspended
from stream_app.partition.key_locks import KeyLocks
from stream_app.partition.rows import Rows
from stream_app.partition.state import PartitionState
from tests.simulation.client import MemoryStateStore
from tests.simulation.schedule import Setup
from tests.support.partition.bench import LEAD, Bench
from tests.support.partition.degrading import ADA, DegradingBench, SlowCache
from tests.support.partition.kafka import AwayStateStore, SlowCommits
from tests.support.partition.virtual import (
    RecordingStream,
    consumed,
    in_flight,
    now_ms,
    parts,
    runner_of,
    virtual_time,
)

T = TypeVar("T")
KEY = (b"row",)


# ------------------------------------------------------------------- callbacks that wait for a lock


@virtual_time
async def test_of_two_callbacks_that_waited_for_one_post_the_second_is_a_duplicate() -> None:
    """Both found the row that they could settle, and waited for the lead that was being sent."""
    bench = Bench(clay_takes_s=5.0)
    bench.publish("id0", "p0")
    await bench.serve_for(2.0)
    assert bench.states(LEAD) == ["received", "sending"]
    bench.call_back(credits=7)
    bench.call_back(credits=7)
    await asyncio.sleep(10.0)
    assert bench.states(LEAD) == ["received", "sending", "accepted", "enriched"]
    assert bench.unmatched(1) == [("callback_duplicate", "answered")]
    assert [result.version for result in bench.results()] == [1]
    assert bench.day().credits_spent == 7


class RefusedOnce(Bench):
    """Clay refuses the first POST of the lead, and a callback comes while that is committed: then
    the lead holds its lock, and does not wait for admission.
    """

    def __init__(self) -> None:
        super().__init__(link=SlowCommits(1.0))
        self.clay.first = [Refused("http_503", 1)]

    async def until_refused(self) -> None:
        """Return when the refusal is in memory, and not on Kafka."""
        self.publish("id0", "p0")
        await self.serve_for(2.5)
        row = self.partition.state.rows.delivery(self.key)
        assert row is not None
        assert row.state == "refused"
        assert "refused" not in self.states(LEAD), "its commit is under way"


@virtual_time
async def test_a_callback_that_comes_while_a_refusal_is_committed_stops_the_next_attempt() -> None:
    bench = RefusedOnce()
    await bench.until_refused()
    bench.call_back()
    await asyncio.sleep(60.0)
    assert bench.states(LEAD) == ["received", "sending", "refused", "accepted", "enriched"]
    assert len(bench.clay.bodies) == 1


@virtual_time
async def test_a_lead_that_was_recalled_in_vain_goes_on() -> None:
    """The callback settles nothing: its fields are too large for a result."""
    bench = RefusedOnce()
    await bench.until_refused()
    bench.call_back(fields={"x": "y" * 950_000})
    await asyncio.sleep(40.0)
    assert bench.unmatched(0) == [("callback_unmatched", "oversize")]
    assert bench.states(LEAD)[-1] == "accepted"
    assert len(bench.clay.bodies) == 2


@virtual_time
async def test_a_callback_that_settled_nothing_settles_no_lead_that_is_sent_later() -> None:
    """The bootstrap and the stream both have it. The stream comes to it after the lead was sent."""
    bench = Bench()
    bench.call_back()
    bench.publish("id0", "p0")
    await bench.partition.take_over()
    serve = bench.partition.runner.serve
    leads = asyncio.create_task(serve(bench.stream, "hot"))
    await asyncio.sleep(10.0)
    assert bench.unmatched() == [("callback_unmatched", "unknown_lead")]
    assert bench.states(LEAD) == ["received", "sending", "accepted"]
    callbacks = asyncio.create_task(serve(bench.streams["callback"], "callback"))
    await asyncio.sleep(10.0)
    assert bench.streams["callback"].committed() == 1
    assert bench.unmatched() == [("callback_unmatched", "unknown_lead")]
    assert bench.states(LEAD) == ["received", "sending", "accepted"]
    for serving in (leads, callbacks):
        serving.cancel()


@virtual_time
async def test_a_callback_settles_its_lead_in_the_turn_in_which_it_reads_the_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Deadlines take no lock: one that passed in between would be overwritten."""
    bench = Bench()
    bench.publish("id0", "p0")
    await bench.serve_for(10.0)
    read = Rows.delivery
    behind: list[str] = []

    def delivery(self: Rows, key: bytes) -> Delivery | None:
        asyncio.get_running_loop().call_soon(look)
        return read(self, key)

    def look() -> None:
        row = read(bench.partition.state.rows, bench.key)
        assert row is not None
        behind.append(row.state)

    monkeypatch.setattr(Rows, "delivery", delivery)
    bench.call_back()
    await asyncio.sleep(1.0)
    assert set(behind) == {"enriched"}


# ------------------------------------------------------------------------------------ locks on rows


async def _holds(locks: KeyLocks, record: InFlight, order: list[int]) -> None:
    async with locks.lock(record, lambda: KEY):
        order.append(record.consumed.offset)


@virtual_time
async def test_a_record_that_is_cancelled_while_it_waits_for_a_lock_leaves_the_queue() -> None:
    locks = KeyLocks(lambda _: None)
    order: list[int] = []
    async with locks.lock(in_flight(0), lambda: KEY):
        waits = asyncio.create_task(_holds(locks, in_flight(1), order))
        later = asyncio.create_task(_holds(locks, in_flight(2), order))
        await asyncio.sleep(1.0)
        waits.cancel()
        await asyncio.sleep(1.0)
    await asyncio.sleep(1.0)
    assert later.done(), "nobody is before it"
    assert order == [2]
    assert locks.is_free(KEY)


@virtual_time
async def test_a_lock_that_is_granted_in_the_turn_of_a_cancellation_is_released() -> None:
    locks = KeyLocks(lambda _: None)
    order: list[int] = []
    async with locks.lock(in_flight(0), lambda: KEY):
        waits = asyncio.create_task(_holds(locks, in_flight(1), order))
        later = asyncio.create_task(_holds(locks, in_flight(2), order))
        await asyncio.sleep(1.0)
    # No await lies between the grant above and this.
    waits.cancel()
    await asyncio.sleep(1.0)
    assert waits.cancelled()
    assert later.done(), "the lock is not lost"
    assert order == [2]
    assert locks.is_free(KEY)


@virtual_time
async def test_a_record_that_waits_for_a_lock_lets_the_next_one_start() -> None:
    locks = KeyLocks(lambda _: None)
    record = in_flight(1)
    async with locks.lock(in_flight(0), lambda: KEY):
        waits = asyncio.create_task(_holds(locks, record, []))
        await asyncio.sleep(1.0)
        assert record.next_may_start.is_set()
    await waits


@virtual_time
async def test_a_record_that_finds_more_keys_behind_its_wait_takes_no_step_without_them() -> None:
    """The earlier holder has linked one more row to the person."""
    locks = KeyLocks(lambda _: None)
    needs = list(KEY)
    held: list[bool] = []

    async def work() -> None:
        async with locks.lock(in_flight(1), lambda: tuple(needs)):
            held.append(locks.is_free((b"other",)))

    async with locks.lock(in_flight(0), lambda: KEY):
        waits = asyncio.create_task(work())
        await asyncio.sleep(1.0)
        needs.append(b"other")
    await waits
    assert held == [False]


# ------------------------------------------------------------------------- leads without a callback


class SlowArchive(AwayStateStore):
    """It takes ten seconds to fetch records."""

    async def fetch(self, places: Sequence[str]) -> dict[str, ConsumedRecord]:
        if places:
            await asyncio.sleep(10.0)
        return await super().fetch(places)


@virtual_time
async def test_a_lead_that_is_answered_while_its_record_is_fetched_is_not_parked() -> None:
    bench = Bench(clay_takes_s=0.1)
    bench.store = SlowArchive(bench.kafka, "t-0", bench.plan.topics.state, 0)
    bench.partition = bench.owner()
    bench.publish("id0", "p0")
    destination = bench.plan.destinations["acme-main"]
    await bench.serve_for(destination.callback_deadline_s + 1.0)
    assert bench.states(LEAD)[-1] == "callback_overdue"
    await asyncio.sleep(destination.callback_grace_s + 5.0)
    assert bench.states(LEAD)[-1] == "callback_overdue", "its record is being fetched"
    bench.call_back(credits=6)
    await asyncio.sleep(60.0)
    assert bench.states(LEAD)[-2:] == ["callback_overdue", "enriched"]
    assert bench.parked() == []
    assert bench.day().credits_spent == 6


# ------------------------------------------------- what an operator orders while the cache is asked


@virtual_time
async def test_a_held_lead_that_is_suppressed_during_the_lookup_gets_no_result() -> None:
    """Neither is it deferred, which would write its data once more."""
    bench = await DegradingBench.started(cache=SlowCache())
    (person,) = people({"email": ADA})
    bench.produce({"lead_id": "1", "fields": {"email": ADA}})
    await asyncio.sleep(0.5)
    await bench.order("suppress", workspace="", people=[person], for_s=5.0)
    assert bench.history("1") == ["received", "suppressed"]
    assert bench.results("1") == []
    assert bench.committed(bench.plan.topics.deferred) == []


@virtual_time
async def test_a_held_lead_that_expires_during_the_lookup_gets_no_result() -> None:
    bench = await DegradingBench.started(cache=SlowCache())
    history = await bench.lead("1", ADA, not_after_ms=now_ms() + 500)
    assert "served_locally" not in history, history
    assert bench.results("1") == []


# ----------------------------------------------------------------------- records that are not begun


class Runner:
    """A runner of one partition whose records are processed by `process`."""

    def __init__(self, bench: Bench, stream: RecordingStream) -> None:
        state = PartitionState(0, bench.store, parts(bench.plan, bench.clay))
        self.state = state
        self.stream = stream
        self.runner = runner_of(state, {"hot": self.process})
        self.began: list[int] = []
        self.again()
        self.serving = asyncio.create_task(self.runner.serve(stream, "hot"))

    def again(self) -> None:
        self.runner.resume()
        self.runner.admit_leads()

    async def process(self, in_flight: InFlight) -> None:
        self.began.append(in_flight.consumed.offset)
        in_flight.release_next()
        await in_flight.suspended.wait()
        raise StreamSuspended

    async def end(self) -> None:
        self.stream.over.set()
        await self.serving


@virtual_time
async def test_a_record_that_waited_for_a_place_does_not_begin_behind_a_suspension() -> None:
    """Those that had a place are given up, which makes room: another worker is to get it."""
    bench = Bench(Setup(shared=True, max_in_flight=1))
    bench.plan.put_workspace(Workspace("gamma", "gamma"), 0)
    runner = Runner(bench, RecordingStream([consumed(offset) for offset in range(6)]))
    await asyncio.sleep(1.0)
    assert runner.began == [0, 1, 2, 3], "four places for each slot"
    runner.stream.suspended.set()
    await asyncio.sleep(1.0)
    assert runner.began == [0, 1, 2, 3]
    assert sorted(runner.stream.given_up) == list(range(6))
    await runner.end()


class Late(RecordingStream):
    """Its second record comes when `more` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.more = asyncio.Event()

    async def __aiter__(self):  # type: ignore[no-untyped-def]  # that of the base class
        yield consumed(0)
        await self.more.wait()
        yield consumed(1)
        await self.over.wait()


class Clinging(Runner):
    """Its first record takes most of a second to end when it is cancelled, as a library may."""

    async def process(self, in_flight: InFlight) -> None:
        try:
            await super().process(in_flight)
        finally:
            if in_flight.consumed.offset == 0:
                await asyncio.sleep(0.9)


@pytest.mark.parametrize("how", ["recovery", "close"])
@virtual_time
async def test_a_record_that_is_taken_while_the_others_end_starts_once_or_not_at_all(
    how: str,
) -> None:
    stream = Late()
    runner = Clinging(Bench(), stream)
    await asyncio.sleep(1.0)
    assert runner.began == [0]
    ends = runner.runner.stop() if how == "recovery" else runner.runner.close(None)
    ending = asyncio.create_task(ends)
    await asyncio.sleep(0.5)
    assert not ending.done(), "the first record is ending"
    stream.more.set()
    await asyncio.sleep(0.1)
    assert runner.began == [0]
    await ending
    if how == "recovery":
        runner.again()
        await asyncio.sleep(1.0)
        assert runner.began == [0, 0, 1]
        stream.suspended.set()
        await asyncio.sleep(2.0)
    with suppress(asyncio.CancelledError):
        await runner.end()


@virtual_time
async def test_a_record_from_before_a_recovery_does_not_begin_if_another_worker_concluded_it() -> (
    None
):
    """Its marker is deleted: the offset of the group has passed it."""
    stream = Late()
    runner = Runner(Bench(), stream)
    await asyncio.sleep(1.0)
    await runner.runner.stop()
    runner.state.rows.load({passed_key("leads"): b"2"})
    runner.again()
    stream.more.set()
    await asyncio.sleep(1.0)
    assert runner.began == [0]
    assert stream.given_up == [0, 1]
    assert stream.acked == []
    await runner.end()


# ------------------------------------------------------------------------------- markers of records


@virtual_time
async def test_a_marker_that_the_group_has_passed_is_deleted_in_memory_and_on_kafka() -> None:
    bench = Bench()
    await bench.serve()
    for number in range(3):
        bench.call_back(lead_id=f"unknown{number}")
        await asyncio.sleep(10.0)
    rows = bench.partition.state.rows
    on_kafka = await MemoryStateStore(bench.kafka, "t-1", bench.plan.topics.state, 0).take_over()
    keys = [mark_key(f"{bench.plan.topics.callbacks}/0/{offset}") for offset in range(3)]
    assert [key in rows for key in keys] == [False, False, True]
    assert [key in on_kafka for key in keys] == [False, False, True]
