"""A worker whose clock is hours off reports it, and what Kafka refuses for it."""

import time

import pytest

from stream_app.dev.kafka import Broker
from tests.e2e.fleet import Fleet

pytestmark = pytest.mark.timeout(180)


def two_hours_ahead() -> None:
    now = time.time
    now_ns = time.time_ns
    time.time = lambda: now() + 7_200
    time.time_ns = lambda: now_ns() + 7_200 * 10**9


@pytest.mark.slow
async def test_records_refused_for_their_timestamp_are_explained(
    kafka: Broker,
    namespace: str,
) -> None:
    """The clock is named while the worker is idle, too: it asks Kafka at its start."""
    async with Fleet(kafka.bootstrap, namespace, 1) as line:
        worker = line.join(change=two_hours_ahead)
        cause = "this machine's clock is 120 min ahead of Kafka's: set it right (NTP)"

        def named() -> bool:
            return any(
                entry["event"] == "clock_is_off" and entry["text"] == cause
                for entry in worker.logged()
            )

        await line.until(named, 60, "the clock is named")
        await line.publish(line.leads(1))

        def explained() -> bool:
            return any(
                "InvalidTimestampError" in text and cause in text for text in worker.output()
            )

        await line.until(explained, 60, "the refusal is explained")
