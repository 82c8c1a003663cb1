"""Clay in trouble: an outage costs few calls and no lead, and a kill leaves few leads uncertain."""

import pytest

from stream_app.dev.kafka import Broker
from tests.e2e.fleet import Fleet, now_ms
from tests.support.pace import slowness

pytestmark = pytest.mark.timeout(300)

SLOW_MACHINE_MS = 3_000
"""What a commit and a POST may take on a busy machine. The bounds without it are in the unit tests,
on virtual time.
"""


@pytest.mark.long
@pytest.mark.parametrize("kind", ["status_before", "refuse"])
async def test_an_outage_costs_few_calls_and_no_lead(
    kafka: Broker,
    namespace: str,
    kind: str,
) -> None:
    """A minute without Clay's host at 8 a second: the host is asked each second, a lead goes every
    ten.
    """
    for_s = 60.0
    async with Fleet(
        kafka.bootstrap,
        namespace,
        1,
        rate_per_s=8,
        burst=10,
        config="[delivery]\nmax_attempts = 2",
    ) as line:
        await line.publish(line.leads(300))
        line.join()
        await line.until(lambda: line.last()["accepted"] >= 10, 40, "it is under way")
        status = {"status": 503} if kind == "status_before" else {}
        line.control("POST", "/control/faults", {"kind": kind, "for_s": for_s, **status})
        ends_ms = now_ms() + int(for_s * 1000)
        await line.until_over(300, 150)
        wasted = [request for request in line.requests() if request.status == 503]
        # Until the breaker opens: the threshold and what is in flight. Then one probe after 10 s
        # each.
        assert len(wasted) <= 5 + 3 + 7
        recovered_ms = min(
            request.at_ms
            for request in line.requests()
            if request.accepted and request.at_ms > ends_ms
        )
        assert recovered_ms - ends_ms < 2_000 + SLOW_MACHINE_MS * slowness()
        assert line.last() == {"accepted": 300}
        assert not await line.read(line.settings.names.dlq), "an outage is no poison"
        assert not line.posted_again()
        line.check_histories()
