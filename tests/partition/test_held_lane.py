"""A lane that is held for an hour, or whose webhook is out: which other leads go on, how soon."""

import asyncio
from collections.abc import Iterator

import pytest

from stream_app.domain.lane.lane import Lane
from stream_app.domain.limits.breaker import Breaker
from stream_app.domain.model.outcome import Denied, Outcome, RateLimited, WebhookOut
from stream_app.partition.intake import Intake
from stream_app.partition.lanes import HostWatch, Lanes
from stream_app.partition.ports import Observer
from tests.simulation.schedule import Setup, plan_of
from tests.support.narrow import present
from tests.support.partition.bench import Bench
from tests.support.partition.clay import NoClay, SlowClay
from tests.support.partition.virtual import VirtualClock, now_ms, virtual_time

HOUR_S = 3_600
SOON_S = 1.0
GONE = WebhookOut(404, 5, "gone", "HTTP 404: Clay does not know it")
FULL = WebhookOut(403, 5, "full", "HTTP 403: it is full")


class ByWorkspace(SlowClay):
    """Answers leads of acme with what is next in `acme`, and takes the others.

    `sent`: when, and to which webhook.
    """

    def __init__(self) -> None:
        super().__init__(0.1)
        self.acme: list[Outcome] = []
        self.sent: list[tuple[int, str]] = []

    async def send(self, destination: str, webhook_id: str, body: bytes, trace_id: str) -> Outcome:
        self.sent.append((now_ms(), webhook_id))
        took = await super().send(destination, webhook_id, body, trace_id)
        return self.acme.pop(0) if destination == "acme-main" and self.acme else took


class SeveralLanes(Bench):
    """Leads of several workspaces, by their numbers."""

    clay: ByWorkspace

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, clay=lambda _: ByWorkspace())
        self._numbers: Iterator[int] = iter(range(10**6))

    def lead(self, workspace: str, topic: str = "") -> str:
        """Publish one; its id."""
        lead_id = f"id{next(self._numbers)}"
        value = {
            "lead_id": lead_id,
            "workspace": workspace,
            "fields": {"email": f"{lead_id}@example.com"},
        }
        self.produce(value, topic, workspace.encode())
        return lead_id


@pytest.mark.parametrize(
    "held_by",
    [RateLimited(429, 5, "3600"), Denied(401, 5, "the token was refused"), "paused"],
)
@pytest.mark.parametrize("shared", [False, True])
@virtual_time
async def test_a_lane_held_for_an_hour_delays_no_other_lane_and_no_other_topic(
    held_by: Outcome | str,
    shared: bool,
) -> None:
    """Not the commands and callbacks of its partition, and, where it has a neighbour there, not its
    leads.
    """
    bench = await SeveralLanes.started(Setup(shared=shared, silent_after=1_000))
    known = [bench.lead("acme") for _ in range(8)]
    await asyncio.sleep(5.0)
    assert all(bench.history(lead_id)[-1] == "accepted" for lead_id in known)
    if isinstance(held_by, str):
        bench.command("pause", "hold")
    else:
        bench.clay.acme = [held_by] * 1_000
    topics = bench.plan.topics
    for topic in (topics.leads, topics.retry, topics.bulk):
        bench.lead("acme", topic)
    began_ms = now_ms()
    while now_ms() - began_ms < HOUR_S * 1_000:
        await asyncio.sleep(590.0)
        bench.lead("acme")  # whatever comes for it meanwhile
        beside = (
            [bench.lead("gamma", topic) for topic in (topics.leads, topics.retry, topics.bulk)]
            if shared
            else []
        )
        called = known.pop()
        bench.call_back(lead_id=called, at_ms=now_ms())
        await bench.order("correct", called, credits=1, for_s=SOON_S)
        assert [bench.history(lead_id)[-1] for lead_id in beside] == ["accepted"] * len(beside)
        assert bench.history(called)[-1] == "enriched"
        assert [answer.applied for answer in bench.answers() if answer.id == called] == [True]
    tried = [
        hook for at_ms, hook in bench.clay.sent if at_ms >= began_ms and hook.startswith("acme")
    ]
    assert len(tried) < 20, "it was held"


@virtual_time
async def test_hot_leads_go_before_bulk_leads_that_came_before_them() -> None:
    bench = await SeveralLanes.started(Setup(rate_per_s=1.0, burst=1))
    first = bench.lead("acme")
    bulk = bench.lead("acme", bench.plan.topics.bulk)
    await asyncio.sleep(0.1)
    hot = bench.lead("acme")
    await asyncio.sleep(5.0)
    assert bench.clay.lead_ids == [first, hot, bulk]


@virtual_time
async def test_hot_leads_go_first_too_when_an_operator_lets_waiting_leads_go() -> None:
    bench = await SeveralLanes.started(Setup(rate_per_s=1.0, burst=1))
    await bench.order("pause")
    bulk = [bench.lead("acme", bench.plan.topics.bulk) for _ in range(2)]
    await asyncio.sleep(1.0)
    hot = [bench.lead("acme") for _ in range(2)]
    await asyncio.sleep(1.0)
    await bench.order("resume", "c2", for_s=5.0)
    assert bench.clay.lead_ids == hot + bulk


@virtual_time
async def test_a_lead_is_deferred_until_a_reservation_may_be_settled_and_not_to_tomorrow() -> None:
    bench = await SeveralLanes.started(Setup(lanes=1, credits_per_day=20))
    bench.lead("acme")
    second = bench.lead("acme")
    await asyncio.sleep(SOON_S)
    assert bench.history(second)[-1] == "deferred"
    (deferred,) = [event for event in bench.events() if event.status == "deferred"]
    deadline_s = bench.plan.destinations["acme-main"].callback_deadline_s
    assert 0 < present(deferred.due_at_ms) - now_ms() <= deadline_s * 1000


@virtual_time
async def test_a_webhook_that_is_out_is_left_at_once_and_the_lead_goes_to_the_next() -> None:
    """No attempt is counted: with one allowed, the lead would become a dead letter."""
    bench = SeveralLanes(Setup(webhooks=2, max_attempts=1))
    bench.clay.acme = [FULL]
    await bench.start()
    first = bench.lead("acme")
    await asyncio.sleep(SOON_S)
    second = bench.lead("acme")
    await asyncio.sleep(SOON_S)
    assert bench.history(first)[-1] == "accepted"
    assert bench.history(second)[-1] == "accepted"
    assert [hook for _, hook in bench.clay.sent] == ["acme-0", "acme-1", "acme-1"]
    hooks = bench.lane().quota.webhooks
    assert {name: (hook.count, hook.suspension is not None) for name, hook in hooks.items()} == {
        "acme-0": (1, True),
        "acme-1": (2, False),
    }


@virtual_time
async def test_leads_wait_for_the_only_webhook_until_a_probe_or_operator_brings_it_back() -> None:
    bench = SeveralLanes(Setup(webhooks=1))
    bench.clay.acme = [FULL, GONE]
    await bench.start()
    leads = [bench.lead("acme") for _ in range(3)]
    await asyncio.sleep(SOON_S)
    assert bench.history(leads[0])[-1] == "held_paused"
    assert len(bench.clay.sent) == 1
    await asyncio.sleep(310)
    assert len(bench.clay.sent) == 2, "one probe, which was refused again"
    await asyncio.sleep(610)
    assert [bench.history(lead)[-1] for lead in leads] == ["accepted"] * 3
    bench.clay.acme = [GONE]
    last = bench.lead("acme")
    await asyncio.sleep(SOON_S)
    assert bench.history(last)[-1] == "held_paused"
    await bench.order("resume", "repaired", for_s=SOON_S)
    assert bench.history(last)[-1] == "accepted"


@virtual_time
async def test_a_lane_that_is_held_while_hosts_are_asked_is_asked_about_next() -> None:
    plan = plan_of(Setup(lanes=1))
    names = list(plan.workspaces)
    lanes = Lanes(0, plan, VirtualClock(), Observer(), Intake())
    for name in names:
        opened = Breaker(phase="open", until_ms=now_ms() + 60_000)
        lanes[name] = Lane(name, 0, breaker=opened)
    first, second = (plan.destinations_of(name)[0] for name in names[:2])
    asked: list[str] = []

    class Hosts(NoClay):
        async def host_answers(self, destination: str) -> bool:
            asked.append(destination)
            watch.note(second)
            await asyncio.sleep(0.1)
            return False

    watch = HostWatch(plan, lanes, VirtualClock(), Hosts())
    watch.note(first)
    watching = asyncio.create_task(watch.run(lambda _: None))
    await asyncio.sleep(1.5)
    assert not watching.done()
    assert asked == [first.alias, first.alias, second.alias]
    watching.cancel()
