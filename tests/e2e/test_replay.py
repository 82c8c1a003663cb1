"""Dead letters that return on real Kafka: those of other programs, and those of an outage."""

from collections import Counter

import pytest

from stream_app.dev.kafka import Broker
from stream_app.domain.model.records import Record
from tests.e2e.behind import behind, caught_up, eventually
from tests.e2e.pipeline import Pipeline

pytestmark = pytest.mark.timeout(150)

CONFIG = """
[delivery]
max_attempts = 1
[replay]
max_replays = 2
backoff_base_s = 1
backoff_cap_s = 1
tiers_s = [1, 600]
"""
LANE = """
[workspaces.{name}.breaker]
mode = "shadow"
[workspaces.{name}.flood_guard]
run = 1000000
share = 1
"""
DOWN = {"kind": "status_before", "status": 503}


def reset(kafka: Broker, line: Pipeline, *how: str) -> str:
    """Reset the offsets as a user would."""
    names = line.settings.names
    tool = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
    return kafka.run_tool(tool, "--group", names.replay_app, "--topic", names.dlq, "--reset-offsets", *how, "--execute")


def pipeline(kafka: Broker, namespace: str, workspaces: int = 2) -> Pipeline:
    return Pipeline(kafka.bootstrap, namespace, workspaces, config=CONFIG, lane=LANE)


@pytest.mark.slow
async def test_dead_letters_of_other_programs_are_sent_as_leads_once(kafka: Broker, namespace: str) -> None:
    async with pipeline(kafka, namespace, 1) as line:
        names, lead = line.settings.names, line.lead(1, "w0")
        foreign = (("another-programs-topic", b"x"), ("another-programs-partition", b"\0\0\0\1"))
        await line.publish(
            [
                Record(names.dlq, None, lead.value, (), lead.partition),
                Record(names.dlq, b"w0", line.lead(2, "w0").value, foreign, lead.partition),
                Record(names.dlq, b"w0", b"no lead", (), lead.partition),
                Record(names.dlq, b"w0", None, (), lead.partition),
            ]
        )
        worker, replay = line.start("worker"), line.start("replay")
        await line.until_over(4, 40)
        await line.stop(replay)
        assert line.last() == {"accepted": 2, "rejected_invalid": 2}
        # What was handed to the line once has a history of its own since: a rewind does not begin another one.
        reset(kafka, line, "--to-earliest")
        replay = line.start("replay")
        await caught_up(line)
        await line.stop(replay)
        # Nor does Kafka's forgetting where the group stood: the app has its own record.
        tool = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
        kafka.run_tool(tool, "--group", names.replay_app, "--topic", names.dlq, "--delete-offsets")
        replay = line.start("replay")
        await line.publish([line.lead(9, "w0")])
        await line.publish([Record(names.dlq, b"w0", line.lead(10, "w0").value, (), lead.partition)])
        await line.until(lambda: line.last()["accepted"] == 4, 40, "two more")
        await line.stop(replay)
        await line.stop(worker)
        line.check_histories()
        assert line.last() == {"accepted": 4, "rejected_invalid": 2}
        dead_letters = [dict(record.headers).get("stream-app-reason") for record in await line.read(names.dlq)]
        assert dead_letters == [None] * 4 + [b"not_json", b"tombstone", None], (
            "each poison has one dead letter with the reason"
        )
        await line.books_balance()


@pytest.mark.timeout(240)
async def test_an_outage_uses_no_replay_attempt_and_causes_no_loop(kafka: Broker, namespace: str) -> None:
    config = """
[delivery]
max_attempts = 1
max_in_flight = 2
[replay]
max_replays = 1
backoff_base_s = 1
backoff_cap_s = 1
tiers_s = [1, 600]
"""
    lane = """
[workspaces.{name}.breaker]
consecutive_failures = 4
open_s = 1
"""
    async with Pipeline(kafka.bootstrap, namespace, 1, config=config, lane=lane) as line:
        names = line.settings.names
        line.control("POST", "/control/faults", DOWN)
        worker, replay = line.start("worker"), line.start("replay")
        await line.publish(line.leads(40))
        # Long enough for each dead letter to have come back many times over, and parked.
        await line.until(lambda: line.summary()["requests"] >= 16, 60, "the breaker has probed again and again")
        await eventually(lambda: behind(line, {names.replay_app: [names.dlq, names.wait(1)]}), 30)
        dead_letters, back = len(await line.read(names.dlq)), len(await line.read(names.retry))
        assert 1 <= dead_letters <= 6, "only those that failed while the breaker was still closed"
        assert back == dead_letters, "each has come back once, and waits at the gate"
        assert "parked" not in line.last()

        line.control("DELETE", "/control/faults")
        await line.until(lambda: line.last() == {"accepted": 40}, 40, "all are accepted")
        await line.stop(replay)
        await line.stop(worker)
        line.check_histories()
        steps = Counter(event.status for history in line.histories.values() for event in history)
        assert (steps["dead_lettered"], steps["replayed"], steps["parked"]) == (dead_letters, dead_letters, 0)
        assert all(event.attempt <= 1 for history in line.histories.values() for event in history)
        assert set(line.summary()["leads"].values()) == {1}
