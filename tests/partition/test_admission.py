"""Admission: which lead is sent next, which waits, and which must not wait here."""

import asyncio
from collections import Counter

import msgspec
import pytest

from stream_app.domain.delivery.recorder import CommitStep
from stream_app.domain.lane.admission import AdmissionRequest, Grant, Held
from stream_app.domain.lane.lane import Lane
from stream_app.domain.limits.budget import BudgetPolicy
from stream_app.domain.limits.concurrency import Concurrency
from stream_app.domain.limits.rate import Rate
from stream_app.domain.limits.suspension import Suspension
from stream_app.domain.model.outcome import Accepted
from stream_app.domain.plan import Plan
from stream_app.partition import admission
from stream_app.partition.admission import AdmissionQueue
from stream_app.partition.in_flight import InFlight, Source, StreamSuspended
from stream_app.partition.intake import Intake
from stream_app.partition.lanes import HostWatch, Lanes
from stream_app.partition.places import Limiter
from stream_app.partition.ports import Observer
from tests.simulation.schedule import Setup, plan_of
from tests.support.narrow import of_type
from tests.support.partition.clay import NoClay
from tests.support.partition.virtual import (
    CommitsAtOnce,
    VirtualClock,
    fail,
    in_flight,
    nothing_ahead,
    now_ms,
    virtual_time,
)


class Queueing:
    """An admission queue whose lane sends `rate_per_s`.

    `gone` has the admitted records in order.
    """

    def __init__(self, setup: Setup, budget: BudgetPolicy | None = None) -> None:
        self.plan: Plan = plan_of(setup)
        if budget is not None:
            acme = msgspec.structs.replace(self.plan.workspaces["acme"], budget=budget)
            self.plan = msgspec.structs.replace(
                self.plan,
                workspaces={**self.plan.workspaces, "acme": acme},
            )
        clock = VirtualClock()
        self.lanes = Lanes(0, self.plan, clock, Observer(), Intake())
        self.lanes["acme"] = Lane("acme", 0, rate=Rate(at_ms=now_ms()))
        self.gone: list[InFlight] = []
        hosts = HostWatch(self.plan, self.lanes, clock, NoClay())
        self.queue = AdmissionQueue(
            self.plan,
            self.lanes,
            hosts,
            CommitsAtOnce(),
            clock,
            fail,
        )

    async def send(self, one: InFlight, ask: AdmissionRequest | None = None) -> Grant | Held:
        def write_ahead(grant: Grant, now_ms: int) -> CommitStep:
            self.gone.append(one)
            return nothing_ahead(grant, now_ms)

        request = ask or AdmissionRequest(self.plan.destinations["acme-main"])
        return await self.queue.admit(one, request, write_ahead)

    def sources(self) -> list[Source]:
        return [one.source for one in self.gone]


@virtual_time
async def test_retry_and_bulk_get_their_share_while_hot_leads_wait() -> None:
    bench = Queueing(Setup(rate_per_s=8.0, burst=1))

    async def stream(source: Source) -> None:
        for offset in range(200):
            entry = of_type(Grant, await bench.send(in_flight(offset, source)))
            bench.queue.settle(entry, Accepted(200, 1), has_slot=True)

    streams = [asyncio.create_task(stream(source)) for source in ("hot", "retry", "bulk")]
    await streams[0]
    part = Counter(bench.sources()[:200])
    for task in streams[1:]:
        task.cancel()
    assert part["hot"] > part["retry"] > part["bulk"]
    assert part["retry"] / part["hot"] == pytest.approx(0.2, abs=0.05)
    assert part["bulk"] / part["hot"] == pytest.approx(0.1, abs=0.05)


@virtual_time
async def test_a_lead_that_comes_too_late_is_not_sent_by_a_lane_that_is_free() -> None:
    bench = Queueing(Setup())
    await asyncio.sleep(1.0)  # it has tokens
    ask = AdmissionRequest(bench.plan.destinations["acme-main"], not_after_ms=now_ms() - 1)
    held = of_type(Held, await bench.send(in_flight(0), ask))
    assert held.status == "expired"
    assert held.reason == "not_after"
    assert bench.gone == []
    in_time = AdmissionRequest(bench.plan.destinations["acme-main"], not_after_ms=now_ms())
    assert isinstance(await bench.send(in_flight(1), in_time), Grant)


@virtual_time
async def test_of_a_lane_no_more_are_under_way_than_its_present_limit() -> None:
    """The limit has followed a slow Clay down to 5, whatever the process may have under way."""
    bench = Queueing(Setup(max_in_flight=100))
    slow = Concurrency(limit=5.0, usual_ms=100.0, calls=600)
    bench.lanes["acme"] = msgspec.structs.replace(bench.lanes["acme"], concurrency=slow)
    ask = AdmissionRequest(bench.plan.destinations["acme-main"], patient=True)
    sending = [asyncio.create_task(bench.send(in_flight(offset), ask)) for offset in range(10)]
    await asyncio.sleep(100.0)
    assert bench.queue.posts_in_flight_of("acme") == 5
    assert len(bench.gone) == 5
    for done in 5, 6:
        entry = of_type(Grant, await sending[0])
        # it has not taken its place for long
        quick = msgspec.structs.replace(entry, at_boot_ms=now_ms() - 100)
        bench.queue.settle(quick, Accepted(200, 1), has_slot=True)
        bench.queue.pump()
        await asyncio.sleep(100.0)
        assert bench.queue.posts_in_flight_of("acme") == 5
        assert len(bench.gone) == done + 1


@virtual_time
async def test_a_lead_that_must_not_wait_for_a_held_lane_waits_for_a_short_stall() -> None:
    """Clay answers nothing, and all that may be in flight is: the sixth is deferred once patience
    has ended.
    """
    bench = Queueing(Setup(max_in_flight=100, hold="degrade", patience_s=5.0))
    few = Concurrency(limit=5.0, usual_ms=100.0, calls=600)
    bench.lanes["acme"] = msgspec.structs.replace(bench.lanes["acme"], concurrency=few)
    sending = [asyncio.create_task(bench.send(in_flight(offset))) for offset in range(6)]
    await asyncio.sleep(5.0)
    assert not sending[5].done(), "a stall shows after 2 s"
    await asyncio.sleep(1.0)
    held = of_type(Held, sending[5].result())
    assert held.reason == "no_answer"
    assert held.status == "held_outage"
    assert held.defer is True
    assert len(bench.gone) == 5


@virtual_time
async def test_a_patient_lead_asks_again_as_soon_as_the_stall_is_over() -> None:
    """The lane counts requests as lost once they have taken longer than any may take."""
    bench = Queueing(Setup(trips_after=5, max_in_flight=100, hold="degrade", patience_s=3_600.0))
    many = Concurrency(limit=50.0, usual_ms=100.0, calls=600)
    bench.lanes["acme"] = msgspec.structs.replace(bench.lanes["acme"], concurrency=many)
    for offset in range(5):
        await bench.send(in_flight(offset))
    lost_s = bench.lanes.policy("acme").breaker.probe_lease_s
    sixth = asyncio.create_task(bench.send(in_flight(5)))
    await asyncio.sleep(lost_s - 5.0)
    assert not sixth.done()
    await asyncio.sleep(10.0)
    assert isinstance(sixth.result(), Grant)


@virtual_time
async def test_a_suspension_gives_up_leads_of_its_own_stream_only() -> None:
    bench = Queueing(Setup(rate_per_s=1.0, burst=1))
    suspended = asyncio.Event()
    mine = asyncio.create_task(bench.send(in_flight(0, "hot", suspended)))
    other = asyncio.create_task(bench.send(in_flight(1, "bulk")))
    await asyncio.sleep(0.1)
    suspended.set()
    bench.queue.give_up(suspended)
    with pytest.raises(StreamSuspended):
        await mine
    assert isinstance(await other, Grant)
    with pytest.raises(StreamSuspended):
        await bench.send(in_flight(2, "hot", suspended))
    assert bench.sources() == ["bulk"]


@virtual_time
async def test_a_lead_whose_task_was_cancelled_is_not_admitted_in_the_same_turn() -> None:
    """It would take a token and a reservation, and nobody would make its POST."""
    bench = Queueing(Setup(rate_per_s=1.0, burst=1))
    waiting = asyncio.create_task(bench.send(in_flight(0)))
    await asyncio.sleep(0.1)
    before = bench.lanes["acme"].budget
    bench.lanes["acme"] = Lane("acme", 0, rate=Rate(tokens=1.0, at_ms=now_ms()), budget=before)
    waiting.cancel()
    bench.queue.pump_lane("acme")
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert bench.gone == []
    assert bench.lanes["acme"].budget == before
    assert isinstance(await bench.send(in_flight(1)), Grant), "the token is still there"


@virtual_time
async def test_a_bug_while_a_timer_admits_leads_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Queueing(Setup(rate_per_s=1.0, burst=1))
    alarms: list[BaseException] = []
    bench.queue._alarm = alarms.append
    await bench.send(in_flight(0))
    waiting = asyncio.create_task(bench.send(in_flight(1)))
    await asyncio.sleep(0.1)
    bug = RuntimeError("a bug")

    def broken(*_: object, **__: object) -> None:
        raise bug

    monkeypatch.setattr(admission, "decide", broken)
    await asyncio.sleep(2.0)
    assert alarms == [bug]
    monkeypatch.undo()
    bench.queue.pump_lane("acme")
    assert not waiting.done(), "nothing is sent any more: the shutdown would make it uncertain"
    waiting.cancel()


@virtual_time
async def test_a_waiting_lead_expires_on_time() -> None:
    bench = Queueing(Setup(rate_per_s=8.0))
    began = now_ms()
    stop = Suspension("http_401", "token", began, began + 1_000_000, 300_000)
    bench.lanes["acme"] = msgspec.structs.replace(bench.lanes["acme"], suspension=stop)
    ask = AdmissionRequest(
        bench.plan.destinations["acme-main"],
        not_after_ms=began + 7_000,
        patient=True,
    )
    assert of_type(Held, await bench.send(in_flight(0), ask)).status == "expired"
    assert now_ms() - began == 7_001


@virtual_time
async def test_returned_bulk_leads_neither_use_the_hot_share_nor_block_hot_replays() -> None:
    """Bulk has room for 40 credits of 80: two leads, by whatever topic they come."""
    bench = Queueing(Setup(max_in_flight=9), budget=BudgetPolicy(credits_per_day=80, hot_share=0.5))
    bench.lanes["acme"] = msgspec.structs.replace(
        bench.lanes["acme"],
        concurrency=Concurrency(limit=9.0),
    )
    destination = bench.plan.destinations["acme-main"]
    for offset in range(2):
        assert isinstance(
            await bench.send(in_flight(offset, "retry"), AdmissionRequest(destination, bulk=True)),
            Grant,
        )
    refused = of_type(
        Held,
        await bench.send(in_flight(2, "retry"), AdmissionRequest(destination, bulk=True)),
    )
    assert refused.reason == "budget_credits_day"
    assert refused.status == "held_budget"
    assert refused.defer is True
    assert "bulk" in refused.text
    patient = AdmissionRequest(destination, bulk=True, patient=True)
    waiting = asyncio.create_task(bench.send(in_flight(0, "bulk"), patient))
    await asyncio.sleep(0.0)
    for offset in range(3, 5):
        assert isinstance(
            await bench.send(in_flight(offset, "retry"), AdmissionRequest(destination)),
            Grant,
        )
    full = asyncio.create_task(bench.send(in_flight(5, "retry"), patient))
    await asyncio.sleep(50.0)
    assert not waiting.done(), "in its own topic it blocks no other lead"
    assert not full.done(), "no lead has room any more: it waits like the others"
    assert isinstance(await waiting, Grant)
    assert isinstance(await full, Grant)
    assert now_ms() // 86_400_000 == 1_796_083_140_000 // 86_400_000 + 1


@pytest.mark.parametrize("shared", [True, False])
@virtual_time
async def test_in_a_shared_partition_alone_a_waiting_lead_lets_the_next_record_start(
    shared: bool,
) -> None:
    bench = Queueing(Setup(shared=shared, rate_per_s=1.0, burst=1, patience_s=600.0))
    first = in_flight(0)
    early = in_flight(1)
    late = in_flight(2)
    late.limiter = Limiter(1)
    late.limiter.enter()
    sending = [asyncio.create_task(bench.send(lead)) for lead in (first, early, late)]
    free = asyncio.create_task(late.limiter.wait())
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in sending[1:])
    assert early.next_may_start.is_set() == shared
    assert late.next_may_start.is_set() == shared
    assert free.done() == shared


@virtual_time
async def test_a_lead_whose_turn_comes_too_late_is_deferred_until_then() -> None:
    bench = Queueing(Setup(shared=True, rate_per_s=2.0, burst=1, patience_s=2.0))
    began = now_ms()
    sending = [asyncio.create_task(bench.send(in_flight(offset))) for offset in range(10)]
    await asyncio.sleep(0.1)
    answers = [task.result() for task in sending if task.done()]
    assert len(answers) == 6, "in 2 s the lane sends four"
    dues_s = []
    for answer in answers:
        assert isinstance(answer, Held)
        assert answer.reason == "lane_busy"
        assert answer.defer is True
        dues_s.append((answer.back_ms - began) / 1000)
    assert dues_s == [pytest.approx(2.5 + 0.5 * number, abs=0.01) for number in range(6)]


@virtual_time
async def test_patience_begins_when_the_lead_may_go() -> None:
    """A lead that Clay did not take waits for its next attempt first, and that wait is not the
    lane's.
    """
    bench = Queueing(Setup(shared=True, max_in_flight=1, rate_per_s=8.0, patience_s=2.0))
    assert isinstance(await bench.send(in_flight(0)), Grant)
    not_before_ms = now_ms() + 200
    ask = AdmissionRequest(bench.plan.destinations["acme-main"], not_before_ms)
    held = of_type(Held, await bench.send(in_flight(1), ask))
    assert held.defer is True
    assert held.text == "1 lead of its workspace waits for the lane"
    assert now_ms() == not_before_ms + 2_000, "not before, and not after"


@pytest.mark.parametrize("bound", ["leads", "bytes"])
@virtual_time
async def test_a_full_window_defers_the_last_lead_of_the_longest_line(
    bound: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Queueing(Setup(shared=True, rate_per_s=2.0, burst=1))
    if bound == "leads":
        delivery = msgspec.structs.replace(bench.plan.delivery, max_waiting=3)
        bench.queue._plan = msgspec.structs.replace(bench.plan, delivery=delivery)
    else:
        monkeypatch.setattr(admission, "MAX_WAITING_BYTES", 6)
    bench.lanes["gamma"] = Lane("gamma", 0, rate=Rate(at_ms=now_ms()))
    order: tuple[Source, ...] = ("bulk", "hot", "hot")
    acme = [in_flight(offset, source) for offset, source in enumerate(order)]  # of 2 bytes each
    tasks = [asyncio.create_task(bench.send(lead)) for lead in acme]
    await asyncio.sleep(0.0)
    await asyncio.sleep(0.0)
    assert len(bench.queue._queues) == 3
    other = asyncio.create_task(
        bench.send(in_flight(9), AdmissionRequest(bench.plan.destinations["gamma-main"])),
    )
    await asyncio.sleep(0.1)
    bulk = of_type(Held, tasks[0].result())
    assert bulk.reason == "lane_busy"
    assert bulk.defer is True
    assert [task.done() for task in (*tasks, other)] == [True, False, False, False]
    assert isinstance(await other, Grant)
    for task in tasks[1:]:
        assert isinstance(await task, Grant)
