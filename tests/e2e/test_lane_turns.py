"""Lanes of one partition and their budgets on real Kafka."""

import asyncio
from pathlib import Path

import pytest

from stream_app.dev.kafka import Broker
from stream_app.domain.record import Record
from tests.e2e.fleet import Fleet, now_ms
from tests.support.pace import slowness

pytestmark = pytest.mark.timeout(180)


def _took(line: Fleet, published: dict[str, int]) -> dict[str, int]:
    """Return by lead the ms from its publication to `accepted`."""
    return {
        history[-1].lead_id: history[-1].at_ms - published[history[-1].lead_id]
        for history in list(line.histories.values())
        if history[-1].status == "accepted" and history[-1].lead_id in published
    }


@pytest.mark.slow
async def test_a_held_lane_delays_no_other(kafka: Broker, namespace: str) -> None:
    """Clay refuses the token of w0. w1 has a partition of its own; w2 and w3 share those of w0 and w1."""
    async with Fleet(kafka.bootstrap, namespace, 4, partitions=2, rate_per_s=50, burst=10) as line:
        line.control("POST", "/control/faults", {"kind": "unauthorized", "workspace": "w0"})
        line.join()
        held = [line.lead(number, "w0") for number in range(1_000, 1_300)]
        await line.publish(held)
        await line.until(lambda: any(s[-1].reason == "http_401" for s in line.histories.values()), 40, "w0 has stopped")
        published: dict[str, int] = {}
        for number in range(90):
            published[f"lead-{number}"] = now_ms()
            await line.publish([line.lead(number, f"w{1 + number % 3}"), *_more(line, number)])
            await asyncio.sleep(0.05)
        await line.until(lambda: len(_took(line, published)) == 90, 40, "the others are all accepted")
        took_ms = sorted(_took(line, published).values())
        assert took_ms[-2] < 1_500 * slowness(), f"p99 {took_ms[-2]} ms, median {took_ms[45]} ms"
        assert not [request for request in line.requests() if request.accepted and request.workspace == "w0"]
        assert not await line.read(line.settings.names.dlq)
        line.check_histories()


def _more(line: Fleet, number: int) -> list[Record]:
    """More leads of the held lane, before and after those of the others."""
    return [line.lead(2_000 + number, "w0")]


SHIFTED = str(Path(__file__).with_name("shifted.py"))
DAY_MS = 86_400_000
LEAD = "estimate_credits = 20\nceiling_credits = 20"
"""What a lead costs is certain, so that a budget is a number of leads."""


@pytest.mark.long
async def test_budgets_are_renewed_at_midnight_under_load(kafka: Broker, namespace: str) -> None:
    """A budget of 60 leads a day, 150 leads, 6 a second: the first day's budget is used up when the next day begins."""
    budget = "budget = { credits_per_day = 1200 }"
    async with Fleet(kafka.bootstrap, namespace, 1, workspace=budget, destination=LEAD, rate_per_s=6, burst=1) as line:
        midnight_ms = now_ms() + 30_000  # a busy machine takes long to start a worker
        shift_ms = DAY_MS - midnight_ms % DAY_MS
        await line.publish(line.leads(150))
        line.join(program=(SHIFTED, str(shift_ms)))
        await line.until(lambda: _accepted(line, midnight_ms) >= 60, 90, "the second day's leads are accepted")
        held = [history[-1] for history in line.histories.values() if history[-1].status == "held_budget"]
        await asyncio.sleep(2)
        first = _accepted(line, 0) - _accepted(line, midnight_ms)
        assert 0 < first <= 60, "the first day's budget was used, and not exceeded"
        assert _accepted(line, midnight_ms) == 60, "the second day's to the last lead, and no more"
        assert sum(request.accepted for request in line.requests()) == first + 60
        assert held, "the next ones report that they wait for the budget"
        assert held[-1].due_at_ms is not None
        assert held[-1].due_at_ms % DAY_MS == 0
        assert not line.posted_again()
        line.check_histories()


def _accepted(line: Fleet, from_ms: int) -> int:
    """Return the leads whose POST was sent from then on, and that Clay took."""
    shift_ms = DAY_MS - from_ms % DAY_MS if from_ms else 0
    return sum(
        history[-1].status == "accepted" and history[-2].at_ms >= from_ms + shift_ms
        for history in line.histories.values()
    )


@pytest.mark.slow
async def test_two_workers_and_a_rebalance_spend_exactly_the_budget(kafka: Broker, namespace: str) -> None:
    """Three lanes with a budget of 40 leads each; owners change twice while they spend it."""
    budget = "budget = { credits_per_day = 800 }"
    async with Fleet(
        kafka.bootstrap, namespace, 3, partitions=3, workspace=budget, destination=LEAD, rate_per_s=8, burst=10
    ) as line:
        await line.publish(line.leads(300))
        first = line.join()
        await line.until(lambda: line.last()["accepted"] >= 15, 40, "some are accepted")
        second = line.join()
        await line.until(lambda: line.last()["accepted"] >= 60, 40, "half of them are accepted")
        assert await line.stop(first.process) == 0
        await line.until(lambda: line.last()["accepted"] >= 120, 60, "all budgets are spent")
        assert second.alive
        await asyncio.sleep(2)
        sent = [request.workspace for request in line.requests() if request.accepted]
        assert {name: sent.count(name) for name in line.names} == dict.fromkeys(line.names, 40)
        assert line.last()["accepted"] == 120
        assert not line.posted_again()
        line.check_histories()
