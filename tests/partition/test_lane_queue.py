"""The line of a lane against plain lists, in any order of arrivals, turns and answers."""

from random import Random
from typing import Any

import pytest

from stream_app.clock import Now
from stream_app.domain.lane.admission import AdmissionRequest, Held
from stream_app.partition.in_flight import PRIORITY, Source
from stream_app.partition.intake import Intake
from stream_app.partition.lane_queue import Kind, LaneQueue, Waiter
from stream_app.partition.lane_timer import Timetable
from stream_app.partition.lanes import Lanes
from stream_app.partition.patience import Patience
from stream_app.partition.ports import Observer
from tests.simulation.schedule import Setup, plan_of
from tests.support.partition.virtual import VirtualClock, in_flight, nothing_ahead, virtual_time

SOURCES: tuple[Source, ...] = ("hot", "retry", "bulk")
GROUPS = ("next_attempt", *SOURCES)
SHARES: dict[Source, float] = {"retry": 0.5, "bulk": 0.25}


def groups_of(waiter: Waiter) -> int:
    return GROUPS.index(waiter.group)


@pytest.mark.parametrize("seed", range(20))
@virtual_time
async def test_the_line_of_a_lane_is_that_of_plain_lists(seed: int) -> None:
    rng = Random(seed)
    plan = plan_of(Setup(shared=True))
    queue = LaneQueue("acme")
    wakes = dict[int, int]()
    line = list[Waiter]()
    owed = dict.fromkeys(SHARES, 0.0)
    kinds: list[Kind] = [
        (name, bulk) for name in ("acme-main", "gamma-main") for bulk in (False, True)
    ]

    def rank(waiter: Waiter) -> tuple[int, int]:
        if waiter.group == "next_attempt":
            return -2, waiter.number
        return -1 if owed.get(waiter.group, 0.0) >= 1.0 else PRIORITY[waiter.group], waiter.number

    for number in range(150):
        if rng.random() < 0.6 or not line:
            one = in_flight(number, rng.choice(SOURCES))
            # one that asks again keeps its place
            arrival = rng.choice([number, 1_000 - number])
            place, bulk = rng.choice(kinds)
            destination = plan.destinations[place]
            request = AdmissionRequest(
                destination,
                rng.choice([0, 7]),
                bulk=bulk,
                patient=rng.random() < 0.5,
            )
            line.append(Waiter(one, request, nothing_ahead, number=arrival, since_ms=0))
            queue.add(line[-1])
        elif rng.random() < 0.3:
            sent = rng.choice(SOURCES)
            queue.count_share(sent, SHARES)
            for source, share in SHARES.items():
                if source == sent:
                    owed[source] = max(0.0, owed[source] - 1.0)
                elif any(waiter.in_flight.source == source for waiter in line):
                    owed[source] = min(2.0, owed[source] + share)
        elif rng.random() < 0.5:
            queue.remove(line.pop(rng.randrange(len(line))))
        else:
            waiter = rng.choice(line)
            if not waiter.ready:
                queue.make_ready(waiter)
            wakes[waiter.number] = rng.randrange(100)
            queue.wakes.set(waiter.number, wakes[waiter.number])
        ready = [waiter for waiter in line if waiter.ready]
        assert len(queue) == len(line)
        assert set(queue) == set(line)
        for without in ((), kinds[:1], kinds[1:]):
            able = [waiter for waiter in ready if waiter.kind not in without]
            assert queue.first(without) is min(able, key=rank, default=None)
        if line:
            last = max(
                ready,
                key=lambda waiter: (groups_of(waiter), waiter.number),
                default=line[-1],
            )
            assert queue.last() is last
        for kind in kinds:
            of_kind = [waiter for waiter in ready if waiter.kind == kind]
            assert queue.has(kind) is bool(of_kind)
            assert queue.ready(kind) == sorted(
                of_kind,
                key=lambda waiter: (groups_of(waiter), waiter.number),
            )
            impatient = [waiter for waiter in of_kind if not waiter.request.patient]
            assert queue.unreported(kind) == sorted(impatient, key=lambda waiter: waiter.number)
        for waiter in ready:
            own = sum(
                other.group == waiter.group and other.number < waiter.number for other in ready
            )
            in_all = own + sum(groups_of(other) < groups_of(waiter) for other in ready)
            assert queue.sends_before(waiter, 0.0) == in_all
            assert queue.sends_before(waiter, 0.25) == min(in_all, (own + 1) * 5)
        times = {waiter.number: wakes[waiter.number] for waiter in line if waiter.number in wakes}
        assert queue.wakes.lowest == min(times.values(), default=None)
    due = sorted((at, number) for number, at in times.items() if at <= 50)
    assert [waiter.number for waiter in queue.pop_woken(50)] == [number for _, number in due]
    assert queue.pop_woken(50) == []


def test_a_timetable_gives_its_keys_by_number_to_the_last_one_that_is_due() -> None:
    table: Timetable[str] = Timetable()
    lowest = [table.lowest]
    for key, number in (("b", 5), ("a", 5), ("c", 9), ("d", 4), ("c", 6), ("d", None), ("e", None)):
        table.set(key, number)
    assert table.highest_key == "c"
    popped = []
    for until in (4, 5, 6):
        lowest.append(table.lowest)
        popped.append(table.pop_until(until))
    assert popped == [[], ["a", "b"], ["c"]]
    assert [*lowest, table.lowest] == [None, 5, 5, 6, None]


NOW_MS = 1_796_083_140_000
NOW = Now(NOW_MS, 0)
PATIENCE_MS = 2_000


@pytest.mark.parametrize("status", [None, "held_outage"])
@pytest.mark.parametrize("bulk_only", [False, True])
@pytest.mark.parametrize("reason", ["breaker_open", "in_flight"])
@pytest.mark.parametrize("over_ms", [0, 1])
@pytest.mark.parametrize(
    ("shared", "hold"),
    [(False, "pause"), (True, "pause"), (False, "degrade")],
)
@virtual_time
async def test_a_lead_waits_here_for_a_hold_that_is_short_or_of_its_own_workspace(
    status: Any,
    bulk_only: bool,
    reason: str,
    over_ms: int,
    shared: bool,
    hold: Any,
) -> None:
    plan = plan_of(Setup(shared=shared, hold=hold, patience_s=PATIENCE_MS / 1_000))
    patience = Patience(plan, Lanes(0, plan, VirtualClock(), Observer(), Intake()))
    queue = LaneQueue("acme")
    for number, source in enumerate(SOURCES):
        waiter = Waiter(
            in_flight(number, source),
            AdmissionRequest(plan.destinations["acme-main"]),
            nothing_ahead,
            number=number,
            since_ms=0,
        )
        queue.add(waiter)
        queue.make_ready(waiter)
    held = Held(reason, "", NOW_MS + PATIENCE_MS + over_ms, status, bulk_only=bulk_only)
    waiters = patience.impatient(queue, ("acme-main", False), held, NOW)
    is_long = over_ms > 0 and reason != "in_flight"
    expected: tuple[Source, ...] = ("retry",) if bulk_only and is_long else ()
    if (status and hold == "degrade") or (is_long and (shared or hold == "degrade")):
        expected = SOURCES
    assert tuple(waiter.in_flight.source for waiter in waiters) == expected
    stall = Held("no_answer", "", NOW_MS + 900)
    waits = patience.wait_for_stall(
        plan.workspaces["acme"],
        stall,
        NOW_MS - 1_500,
        Now(NOW_MS + 499 + over_ms, 0),
    )
    if over_ms or not (shared or hold == "degrade"):
        assert waits is stall
    else:
        assert waits == Held("in_flight", "", NOW_MS + 500)
    assert patience.until_ms(waiter, Now(NOW_MS, 700)) == NOW_MS + PATIENCE_MS - 700
