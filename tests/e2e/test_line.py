"""Real Kafka and real processes: Clay gets no lead twice, and histories come out."""

import csv
from collections import Counter

import pytest

from stream_app.dev.kafka import Broker
from stream_app.domain.model.records import Record
from tests.e2e.pipeline import Pipeline
from tests.support.pace import BUSY

pytestmark = pytest.mark.timeout(240)


async def test_publish_waits_until_its_leads_are_finished(kafka: Broker, namespace: str) -> None:
    async with Pipeline(kafka.bootstrap, namespace, 3, pinned=False) as line:

        def written(name: str, first: int) -> str:
            source = line.directory / name
            with source.open("w", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(["lead_id", "workspace", "email"])
                rows.writerows(
                    [f"L{n}", f"w{n % 3}", f"p{n}@example.com"] for n in range(first, first + 300)
                )
            return str(source)

        code, report = await line.ask("publish", written("a.csv", 0), "--wait", "1", "--yes")
        assert code == 3, report
        waited = report["wait"]
        assert waited["at_rest"] == 0
        assert waited["under_way"] == 300
        assert waited["no_event"] == 300

        line.start("worker")
        code, report = await line.ask(
            "publish",
            written("b.csv", 200),
            "--wait",
            str(90 * BUSY),
            "--yes",
        )
        assert code == 0, report
        waited = report["wait"]
        assert waited == {
            "at_rest": 300,
            "under_way": 0,
            "statuses": {"accepted": 200, "duplicate": 100},
            "statuses_under_way": {},
            "no_event": 0,
        }
        await line.until_over(600, 60)
        line.check_histories()
        assert line.summary()["leads"] == {f"L{number}": 1 for number in range(500)}, "each once"
        await line.books_balance()


SOON = """
[delivery]
max_attempts = 2
retry_base_s = 0.05
retry_cap_s = 0.2
[replay]
max_replays = 2
backoff_base_s = 1
backoff_cap_s = 1
tiers_s = [1, 2, 600]
"""
UNBROKEN = """
[workspaces.{name}.breaker]
mode = "shadow"
"""
FAULTS = """
[[fault]]
kind = "status_before"
status = 422
share = 0.02
[[fault]]
kind = "status_before"
status = 500
share = 0.02
[[fault]]
kind = "status_before"
status = 503
share = 0.25
"""


@pytest.mark.long
async def test_dead_letters_of_many_faults_are_replayed_then_parked_once(
    kafka: Broker,
    namespace: str,
) -> None:
    async with Pipeline(
        kafka.bootstrap,
        namespace,
        5,
        config=SOON,
        lane=UNBROKEN,
        script=FAULTS,
        partitions=8,
    ) as line:
        await line.publish(line.leads(10_000))
        worker = line.start("worker")
        replay = line.start("replay")
        await line.until_over(10_000, 180)
        await worker.stop()
        await replay.stop()
        line.check_histories()
        states = line.last()
        assert sum(states.values()) == 10_000
        assert set(states) == {"accepted", "rejected_invalid", "parked"}
        assert min(states.values()) > 50, states
        for history in line.histories.values():
            steps = Counter(event.status for event in history)
            assert steps["dead_lettered"] <= 2
            assert steps["parked"] <= 1
        parked = await line.read(line.settings.names.parked)
        origins = [dict(record.headers)["stream-app-origin"] for record in parked]
        assert len(origins) == len(set(origins)) == states["parked"]
        assert set(line.summary()["leads"].values()) == {1}, "none that was accepted was sent again"
        await line.books_balance()


@pytest.mark.long
async def test_kill_9_loses_no_lead_and_posts_none_twice(kafka: Broker, namespace: str) -> None:
    slow = """
[[fault]]
kind = "slow"
delay_s = 0.03
"""
    async with Pipeline(
        kafka.bootstrap,
        namespace,
        4,
        config=SOON,
        lane=UNBROKEN,
        script=FAULTS + slow,
    ) as line:
        poison = Record(line.settings.names.leads, b"w0", b"no lead", (), 0)
        leads = line.leads(3_000)
        await line.publish(
            lead for n in range(0, 3_000, 100) for lead in (*leads[n : n + 100], poison)
        )
        worker = line.start("worker")
        replay = line.start("replay")
        for killed_at in (400, 1_100, 1_800):
            await line.until(
                lambda: line.last()["accepted"] >= killed_at,  # noqa: B023 - it is called in this turn
                60,
                f"{killed_at} accepted",
            )
            worker.kill()
            worker = line.start("worker")
        await line.until_over(3_030, 90)
        assert await replay.get("/healthz") == "ok\n"
        await worker.stop()
        await replay.stop()
        line.check_histories()
        states = line.last()
        sent = line.summary()["leads"]
        assert sum(states.values()) == 3_030, "none is lost"
        assert set(states) == {"accepted", "parked", "rejected_invalid"}
        assert set(sent.values()) == {1}, "none was POSTed twice"
        ends = {history[0].lead_id: history[-1].status for history in line.histories.values()}
        assert {lead_id for lead_id, status in ends.items() if status == "accepted"} <= sent.keys()
        assert sum(lead_id.startswith("record:") for lead_id in ends) == 30, (
            "each poison is reported once"
        )
        assert any(
            event.replay
            for history in line.histories.values()
            for event in history
            if event.status == "accepted"
        )
        parked = [
            dict(record.headers)["stream-app-origin"]
            for record in await line.read(line.settings.names.parked)
        ]
        assert len(parked) == len(set(parked)) == states["parked"]
        await line.books_balance()
