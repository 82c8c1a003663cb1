"""Clay in trouble: an outage costs few calls and no lead, Retry-After is kept, a refused token loses no lead."""

import os

import pytest

from stream_app.dev.kafka import Broker
from tests.e2e.fleet import Fleet, now_ms
from tests.support.pace import slowness

pytestmark = pytest.mark.timeout(300)

SLOW_MACHINE_MS = 3_000
"""What a commit and a POST may take on a busy machine. The bounds without it are in the unit tests, on virtual time."""


@pytest.mark.long
@pytest.mark.parametrize("kind", ["status_before", "refuse"])
async def test_an_outage_costs_few_calls_and_no_lead(kafka: Broker, namespace: str, kind: str) -> None:
    """A minute without Clay's host at 8 a second: the host is asked each second, a lead goes every ten."""
    for_s = 60.0
    async with Fleet(
        kafka.bootstrap, namespace, 1, rate_per_s=8, burst=10, config="[delivery]\nmax_attempts = 2"
    ) as line:
        await line.publish(line.leads(300))
        line.join()
        await line.until(lambda: line.last()["accepted"] >= 10, 40, "it is under way")
        status = {"status": 503} if kind == "status_before" else {}
        line.control("POST", "/control/faults", {"kind": kind, "for_s": for_s, **status})
        ends_ms = now_ms() + int(for_s * 1000)
        await line.until_over(300, 150)
        wasted = [request for request in line.requests() if request.status == 503]
        # Until the breaker opens: the threshold and what is in flight. Then one probe after 10 s each.
        assert len(wasted) <= 5 + 3 + 7
        recovered_ms = min(request.at_ms for request in line.requests() if request.accepted and request.at_ms > ends_ms)
        assert recovered_ms - ends_ms < 2_000 + SLOW_MACHINE_MS * slowness()
        assert line.last() == {"accepted": 300}
        assert not await line.read(line.settings.names.dlq), "an outage is no poison"
        assert not line.posted_again()
        line.check_histories()


@pytest.mark.long
async def test_an_outage_of_one_webhook_costs_few_calls_and_no_lead(kafka: Broker, namespace: str) -> None:
    """The host answers meanwhile, so only a probe can show the end: one after 4.5 to 5 s each."""
    async with Fleet(
        kafka.bootstrap, namespace, 1, rate_per_s=8, burst=10, config="[delivery]\nmax_attempts = 2"
    ) as line:
        await line.publish(line.leads(300))
        line.join()
        await line.until(lambda: line.last()["accepted"] >= 10, 40, "it is under way")
        fault = {"kind": "status_before", "status": 503, "for_s": 60, "workspace": line.names[0]}
        line.control("POST", "/control/faults", fault)
        ends_ms = now_ms() + 60_000
        await line.until_over(300, 150)
        assert sum(request.status == 503 for request in line.requests()) <= 20
        recovered_ms = min(request.at_ms for request in line.requests() if request.accepted and request.at_ms > ends_ms)
        assert recovered_ms - ends_ms < 5_000 + SLOW_MACHINE_MS * slowness()
        assert line.last() == {"accepted": 300}
        assert not await line.read(line.settings.names.dlq), "an outage is no poison"


@pytest.mark.long
async def test_a_kill_leaves_only_the_requests_in_flight_uncertain(kafka: Broker, namespace: str) -> None:
    """Ten a second and 200 ms a POST are two in flight; the limit is five, also after a start with a full bucket."""
    kills, leads = 5, 300
    async with Fleet(kafka.bootstrap, namespace, 1, partitions=1, rate_per_s=10, burst=20) as line:
        line.control("POST", "/control/faults", {"kind": "slow", "delay_s": 0.2})
        await line.publish(line.leads(leads))
        for kill in range(1, kills + 1):
            member = line.join()
            await line.until(lambda: line.last()["accepted"] + line.last()["parked"] >= 50 * kill, 60, f"kill {kill}")  # noqa: B023
            member.kill()
        line.join()
        await line.until_over(leads, 90)
        assert line.last()["parked"] <= 5 * kills
        assert line.last()["accepted"] == leads - line.last()["parked"]
        assert not line.posted_again()


@pytest.mark.slow
async def test_no_request_is_sent_before_retry_after(kafka: Broker, namespace: str) -> None:
    """Half of all requests are answered 429 with Retry-After: 2 for a while. Nothing is sent within these 2 s."""
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
                if request.workspace == answer.workspace and 0 < request.at_ms - answer.at_ms < 1_990
            ]
            assert len(early) <= 5, "a burst that was already on the way, where 40 would come at this rate"
        assert line.last() == {"accepted": 120}
        assert not line.posted_again()
        line.check_histories()


@pytest.mark.slow
async def test_a_refused_token_loses_no_lead(kafka: Broker, namespace: str) -> None:
    """A sink that drops what is answered 401 loses data (vectordotdev/vector#24543). Here the lane is suspended, names
    the token, sends nothing more, and continues when a worker with the right token starts.
    """
    token = 'token_env = "TOKEN"'
    script = '[webhooks."w0--crm"]\ntoken = "the right one"\n'
    os.environ["TOKEN"] = "a wrong one"
    async with Fleet(kafka.bootstrap, namespace, 1, destination=token, script=script) as line:
        await line.publish(line.leads(60))
        worker = line.join()
        await line.until(lambda: line.last()["held_paused"] >= 1, 40, "the lane has stopped")
        reported = next(history[-1] for history in line.histories.values() if history[-1].status == "held_paused")
        assert reported.reason == "http_401"
        assert reported.text.startswith("destination w0-crm (token: TOKEN): HTTP 401")
        assert await line.stop(worker.process) == 0
        refused = [request for request in line.requests() if request.status == 401]
        assert 1 <= len(refused) <= 60, "what was under way, and nothing after"
        assert not await line.read(line.settings.names.dlq)
        os.environ["TOKEN"] = "the right one"
        line.join()
        await line.until(lambda: line.last()["accepted"] == 60, 40, "all are accepted, without a word of an operator")
        assert not line.posted_again()
        line.check_histories()
