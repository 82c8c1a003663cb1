"""The outcome of a POST survives an aborted commit: no lead is parked because of it."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import pytest

from stream_app.domain.delivery.envelope import read_envelope
from stream_app.domain.delivery.recorder import CommitStep
from stream_app.domain.delivery.state_machine import delivery_key, lane_key, read_delivery
from stream_app.domain.delivery.suppression import Suppression, erased_row
from stream_app.domain.lane.settlement import Settlement
from stream_app.domain.limits.budget import Period
from stream_app.domain.model.outcome import (
    Accepted,
    Denied,
    Outcome,
    Poison,
    RateLimited,
    Refused,
    Uncertain,
)
from stream_app.domain.model.records import Record
from stream_app.domain.model.seen import Seen
from stream_app.partition.admission import AdmissionQueue
from stream_app.partition.rows import read_lane
from tests.simulation.client import MemoryStateStore
from tests.simulation.schedule import Setup
from tests.support.partition.bench import Bench
from tests.support.partition.kafka import Losing
from tests.support.partition.virtual import now_ms, virtual_time

T = TypeVar("T")

CREDITS = 6
KEY = delivery_key("acme", "acme-main", "id0")
WRITE_AHEAD = 0
SETTLE = 1
"""The transactions of a lead that is sent once."""


async def day_of(bench: Bench) -> Period:
    """The lane's budget of the day that Kafka has."""
    rows = await MemoryStateStore(bench.kafka, "t-0", bench.plan.topics.state, 0).take_over()
    return read_lane(b"", rows[lane_key("acme")]).budget.days[0]


async def history_of(outcomes: list[Outcome], link: Losing) -> Bench:
    """One lead, taken to its end; Clay gives these outcomes in turn."""
    bench = Bench(Setup(callbacks=False, credits_per_day=100), clay_takes_s=0.1, link=link)
    bench.clay.first = list(outcomes)
    bench.publish("id0", "p0")
    await bench.serve_for(60)
    assert bench.stream.committed() == 1
    assert len(bench.clay.bodies) == len(outcomes), "it was sent that often"
    return bench


ACCEPTED = Accepted(200, 1)
BUSY = Refused("http_503", 1)
RESET = Uncertain("reset", 1)


@virtual_time
async def test_the_event_of_each_answer_to_a_test_lead_says_what_came() -> None:
    seen = Seen(503, 1), None, Seen(202, 1, {}, {"success": "true or false"})
    outcomes: list[Outcome] = [
        Refused("http_503", 1, 503, seen=seen[0]),
        Refused("connect_refused", 1, seen=seen[1]),
        Accepted(202, 1, seen=seen[2]),
    ]
    bench = await history_of(outcomes, Losing([]))
    told = [event for event in bench.events() if event.status in ("refused", "accepted")]
    assert [event.seen for event in told] == list(seen)
    others = [event for event in bench.events() if event not in told]
    assert {event.seen for event in others} == {None}


@pytest.mark.parametrize("answers_only", [False, True])
@pytest.mark.parametrize(
    ("outcomes", "emitted"),
    [
        ([ACCEPTED], ["accepted"]),
        ([RESET], ["send_uncertain", "parked"]),
        ([BUSY, ACCEPTED], ["refused", "sending", "accepted"]),
    ],
)
@virtual_time
async def test_a_known_outcome_outlives_the_recovery(
    outcomes: list[Outcome],
    emitted: list[str],
    answers_only: bool,
) -> None:
    bench = await history_of(outcomes, Losing({SETTLE}, answers_only))
    assert bench.states() == ["received", "sending", *emitted]
    assert "worker_died" not in [event.reason for event in bench.events()]
    rows = await MemoryStateStore(bench.kafka, "t-0", bench.plan.topics.state, 0).take_over()
    row = read_delivery(KEY, rows[KEY])
    assert row.accepted_at_ms == next(
        (event.at_ms for event in bench.events() if event.status == "accepted"),
        0,
    )


@virtual_time
async def test_an_outcome_survives_several_recoveries_and_is_booked_once() -> None:
    bench = await history_of([ACCEPTED], Losing({SETTLE, SETTLE + 1, SETTLE + 2}))
    assert bench.states() == ["received", "sending", "accepted"]
    day = await day_of(bench)
    assert day.credits_reserved == 0
    assert day.credits_spent == CREDITS


@virtual_time
async def test_a_post_that_was_never_started_is_not_uncertain() -> None:
    """The write-ahead is in Kafka, and Kafka answered this process that it is not."""
    bench = await history_of([ACCEPTED], Losing({WRITE_AHEAD}, answers_only=True))
    assert bench.states() == ["received", "sending", "refused", "sending", "accepted"]
    day = await day_of(bench)
    assert day.credits_reserved == 0
    assert day.credits_spent == CREDITS


@pytest.mark.parametrize(
    ("late_ms", "states"),
    [
        (10_000, ["received", "sending", "accepted"]),
        (10_001, ["received", "sending", "refused", "sending", "accepted"]),
    ],
)
@virtual_time
async def test_a_post_does_not_start_later_after_its_grant_than_it_may(
    late_ms: int,
    states: list[str],
) -> None:
    """Another worker may own the partition by then. Nothing was sent, so the lead has its turn."""
    bench = Bench(Setup(callbacks=False), clay_takes_s=0.1)
    assert bench.plan.delivery.max_request_start_age_s == 10.0
    real = bench.store.transact
    commits = 0

    async def transact(records: Any) -> None:
        nonlocal commits
        commits += 1
        if commits == 1:  # the write-ahead
            await asyncio.sleep(late_ms / 1_000)
        await real(records)

    bench.store.transact = transact  # type: ignore[method-assign]  # a slow Kafka
    bench.publish("id0", "p0")
    await bench.serve_for(60.0)
    assert bench.states() == states
    assert len(bench.clay.bodies) == 1
    refusals = {event.reason for event in bench.events() if event.status == "refused"}
    assert refusals <= {"started_too_late"}


@virtual_time
async def test_a_post_under_way_is_uncertain_after_any_outcome_of_the_one_before() -> None:
    """Another lead's transaction is lost while this one's second POST is under way."""
    link = Losing({SETTLE + 2})
    bench = Bench(Setup(callbacks=False), link=link)
    outcomes: list[Outcome] = [BUSY, ACCEPTED, ACCEPTED]

    async def send(destination: str, webhook_id: str, body: bytes, trace_id: str) -> Outcome:
        bench.clay.bodies.append(body)
        second = len(bench.clay.bodies) == 2
        if second:
            bench.publish("id1", "p1")
        await asyncio.sleep(10 if second else 0.1)
        return outcomes.pop(0)

    bench.clay.send = send  # type: ignore[method-assign]  # a script in place of a clay that takes everything
    bench.publish("id0", "p0")
    await bench.serve_for(60)
    emitted = [event.status for event in bench.events() if event.lead_id == "id0"]
    assert emitted == ["received", "sending", "refused", "sending", "send_uncertain", "parked"]
    assert [body for body in bench.clay.bodies if b"p0@" in body] == bench.clay.bodies[:2]


@virtual_time
async def test_the_outcome_is_not_taken_for_that_of_a_post_which_another_has_begun_since() -> None:
    """No process should be able to, while the group knows us: the row decides all the same."""

    class Usurped(Losing):
        async def ask(self, what: str, request: Callable[[], T]) -> T:
            if what == "fence" and bench.clay.bodies:
                log = bench.kafka.log(bench.plan.topics.state, 0).committed()
                key, value = next(
                    (record.key, record.value)
                    for record in log
                    if (record.key or b"").startswith(b"d/")
                )
                ours = read_delivery(key or b"", value or b"")
                theirs = msgspec.structs.replace(ours, seq=ours.seq + 2)
                bench.kafka.produce(
                    0,
                    Record(bench.plan.topics.state, key, msgspec.json.encode(theirs)),
                )
            return await super().ask(what, request)

    bench = Bench(Setup(callbacks=False), link=Usurped({SETTLE}))
    bench.publish("id0", "p0")
    await bench.serve_for(60)
    assert [event.reason for event in bench.events()][-2:] == ["worker_died", "uncertain"]


@pytest.mark.parametrize("callbacks", [True, False])
@pytest.mark.parametrize(
    "outcome",
    [Refused("http_503", 1), Poison(422, 1), Uncertain("no_answer", 1), None],
)
@virtual_time
async def test_no_copy_of_a_lead_erased_in_its_post_has_fields(
    outcome: Outcome | None,
    callbacks: bool,
) -> None:
    bench = Bench(Setup(callbacks=callbacks, max_attempts=1), clay_takes_s=2.0)
    bench.clay.first = [outcome or Accepted(200, 1)]
    bench.publish("id0", "p0")
    await bench.serve_for(1.0)
    erased = (
        erased_row("acme", "id0"),
        msgspec.json.encode(Suppression("erased", now_ms(), "c1", "jane")),
    )
    await bench.partition.state.commits.submit(CommitStep([erased], [], []))
    await asyncio.sleep(200.0)
    topics = bench.plan.topics
    names = [topics.dlq, topics.parked, *map(topics.wait, bench.plan.replay.tiers_s)]
    copies = [copy for name in names for copy in bench.dead_letters(name)]
    assert [copy.value for copy in copies] == ([None] if outcome or callbacks else [])
    assert outcome or all("the lead was erased" in read_envelope(copy).text for copy in copies)


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (ACCEPTED, "accepted"),
        (RESET, "send_uncertain"),
        (Poison(422, 1), "rejected_invalid"),
        (BUSY, "refused"),
        (RateLimited(429, 1, "60"), "refused"),
        (Denied(401, 1), "refused"),
    ],
)
@virtual_time
async def test_lane_and_row_learn_the_outcome_of_a_post_in_one_turn(
    outcome: Outcome,
    state: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The step of another lead could otherwise commit the lane beside a row that still says
    `sending`, and a recovery would settle the POST again.
    """
    bench = Bench()
    bench.clay.first = [outcome]
    settle = AdmissionQueue.settle
    behind: list[str] = []

    def settled(self: AdmissionQueue, *args: Any, **more: Any) -> Settlement:
        asyncio.get_running_loop().call_soon(look)
        return settle(self, *args, **more)

    def look() -> None:
        row = bench.partition.state.rows.delivery(bench.key)
        assert row is not None
        behind.append(row.state)

    monkeypatch.setattr(AdmissionQueue, "settle", settled)
    bench.publish("id0", "p0")
    await bench.serve_for(1.5)
    assert behind == [state]
