"""Dead letters of other programs, on real Kafka, rewound by Kafka's own tool."""

import pytest

from stream_app.dev.kafka import Broker
from stream_app.domain.record import Record
from tests.e2e.behind import caught_up
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
