"""Order between lanes and leads: hot leads overtake a backfill that keeps its share, and a held lane delays no
other.
"""

import asyncio

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
