"""Clay in trouble: an outage wastes few calls and no lead, Retry-After is kept, a refused token loses nothing."""

from __future__ import annotations

import os

import pytest

from stream_app.dev.kafka import Broker
from tests.e2e.fleet import Fleet, now_ms

pytestmark = pytest.mark.timeout(180)


@pytest.mark.long
async def test_an_outage_costs_few_calls_and_no_lead(kafka: Broker, namespace: str) -> None:
    """12 s of 503 at 8 a second: the breaker is open for 2.4 to 3 s, five times at most, with at most 2 probes each."""
    async with Fleet(
        kafka.bootstrap, namespace, 1, rate_per_s=8, burst=10, config="[delivery]\nmax_attempts = 2"
    ) as line:
        await line.publish(line.leads(200))
        line.join()
        await line.until(lambda: line.last()["accepted"] >= 10, 40, "it is under way")
        line.control("POST", "/control/faults", {"kind": "status_before", "status": 503, "for_s": 12})
        ends_ms = now_ms() + 12_000
        await line.until_over(200, 60)
        wasted = [request for request in line.requests() if request.status == 503]
        assert len(wasted) <= 5 + 2 * 5, "threshold + probes"
        recovered_ms = min(request.at_ms for request in line.requests() if request.accepted and request.at_ms > ends_ms)
        assert recovered_ms - ends_ms < 3_000 + 500, "within one probe interval"
        assert line.last() == {"accepted": 200}
        assert not await line.read(line.settings.names.dlq), "an outage is no poison"
        assert not line.posted_again()
        line.check_histories()


async def test_no_request_is_sent_before_retry_after(kafka: Broker, namespace: str) -> None:
    """Half of all requests are answered 429 for a while, with Retry-After: 2; nothing is sent within these 2 s."""
    async with Fleet(kafka.bootstrap, namespace, 2, rate_per_s=20, burst=5) as line:
        await line.publish(line.leads(120))
        line.join()
        await line.until(lambda: line.last()["accepted"] >= 10, 40, "it is under way")
        storm = {"kind": "rate_limited", "share": 0.5, "for_s": 8, "retry_after": "seconds", "retry_after_s": 2}
        line.control("POST", "/control/faults", [{**storm, "workspace": name} for name in line.names])
        await line.until_over(120, 90)
        limited = [request for request in line.requests() if request.status == 429]
        assert limited
        for answer in limited:
            early = [
                request.at_ms - answer.at_ms
                for request in line.requests()
                if request.workspace == answer.workspace and 500 < request.at_ms - answer.at_ms < 1_990
            ]
            assert not early, "what was already on the way is there within half a second"
        assert line.last() == {"accepted": 120}
        assert not line.posted_again()
        line.check_histories()


async def test_a_refused_token_loses_no_lead(kafka: Broker, namespace: str) -> None:
    """vectordotdev/vector#24543: a sink that drops what is answered with 401. Here the lane stops, says whose token it
    is, sends nothing more, and goes on at once when a worker comes up with the right one.
    """
    token = 'token_env = "TOKEN"'
    script = '[webhooks."w0--crm"]\ntoken = "the right one"\n'
    os.environ["TOKEN"] = "a wrong one"
    async with Fleet(kafka.bootstrap, namespace, 1, destination=token, script=script) as line:
        await line.publish(line.leads(60))
        worker = line.join()
        await line.until(lambda: line.last()["held_paused"] >= 1, 40, "the lane has stopped")
        told = next(history[-1] for history in line.histories.values() if history[-1].status == "held_paused")
        assert told.reason == "http_401"
        assert told.text.startswith("destination w0-crm (token: TOKEN): HTTP 401")
        assert await line.stop(worker.process) == 0
        refused = [request for request in line.requests() if request.status == 401]
        assert 1 <= len(refused) <= 60, "what was under way, and nothing after"
        assert not await line.read(line.settings.names.dlq)
        os.environ["TOKEN"] = "the right one"
        line.join()
        await line.until(lambda: line.last()["accepted"] == 60, 40, "all are accepted, without a word of an operator")
        assert not line.posted_again()
        line.check_histories()
