"""A worker whose clock is hours off reports it at its start and while Kafka refuses its records."""

from pathlib import Path

import pytest

from stream_app.dev.kafka import Broker
from tests.e2e.fleet import Fleet, Member

pytestmark = pytest.mark.timeout(180)
WRONG = str(Path(__file__).with_name("wrong_clock.py"))
HOUR_S = 3_600


def clock_errors(worker: Member) -> list[str]:
    return [line["text"] for line in worker.logged() if line["event"] == "clock_is_off"]


async def test_an_idle_worker_reports_a_clock_that_is_behind(kafka: Broker, namespace: str) -> None:
    async with Fleet(kafka.bootstrap, namespace, 1) as line:
        worker = line.join(program=(WRONG, str(-2 * HOUR_S)))
        await line.until(lambda: bool(clock_errors(worker)), 60, "the clock is named")
        assert clock_errors(worker)[0] == "this machine's clock is 120 min behind Kafka's: set it right (NTP)"


@pytest.mark.slow
async def test_records_refused_for_their_timestamp_are_explained(kafka: Broker, namespace: str) -> None:
    async with Fleet(kafka.bootstrap, namespace, 1) as line:
        worker = line.join(program=(WRONG, str(2 * HOUR_S)))
        await line.publish(line.leads(1))
        cause = "this machine's clock is 120 min ahead of Kafka's"
        await line.until(lambda: any(cause in text for text in clock_errors(worker)), 60, "the clock is named")

        def explained() -> bool:
            return any("InvalidTimestampError" in text and cause in text for text in worker.output())

        await line.until(explained, 60, "the refusal is explained")
