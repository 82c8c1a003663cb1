"""Unusable rows, leads lost to retention, recreated topics and stalls: each is reported."""

import asyncio
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete
from aiokafka.protocol.admin import DeleteGroupsRequest

from stream_app.dev.kafka import Broker
from stream_app.dev.process import LOOPBACK
from stream_app.domain.delivery.envelope import Envelope
from stream_app.domain.delivery.state_machine import ROW_VERSION, Delivery, delivery_key, lane_key, passed_key
from stream_app.domain.lane.lane import LANE_VERSION, Lane
from stream_app.domain.model.records import Record
from stream_app.domain.model.system import SYSTEM_KEY, system_row
from tests.e2e.behind import caught_up
from tests.e2e.fleet import Fleet, Member
from tests.support.kafka import admin, committed, create_topics, delete_topics
from tests.support.pace import BUSY

pytestmark = pytest.mark.timeout(120)
QUICK = """
[delivery]
request_timeout_s = 2.8
connect_timeout_s = 0.5
max_request_start_age_s = 1
commit_timeout_s = 1
uncertain_grace_s = 5
"""
STANDS_STILL_S = 1 + 2.8 + 2 * 1
POISON = Envelope(origin="leads/0/0", disposition="poison")
OLD = Delivery(ROW_VERSION, "accepted", "leads/0/0", 3, 1, 1, "t")
BAD_ROWS: list[tuple[bytes, bytes, str]] = [
    # key, value, what the worker says
    (lane_key("w0"), b"{", "the row l/w0 of the state topic cannot be read"),
    (lane_key("w0"), msgspec.json.encode(Lane("w0", 0, version=LANE_VERSION + 1)), "the row l/w0 has version"),
    (lane_key("w1"), msgspec.json.encode(Lane("w1", 0)), "set workspaces.w1.partition = 0"),
    (b"o/no place", b"1", "the row o/no place of the state topic cannot be read"),
    (b"c/leads", b"many", "the row c/leads of the state topic cannot be read"),
    (delivery_key("w0", "w0-crm", "lead-0"), b"\xff", "the row d/w0/w0-crm/lead-0 of the state topic cannot be read"),
    (
        delivery_key("w0", "w0-crm", "lead-0"),
        msgspec.json.encode(msgspec.structs.replace(OLD, version=ROW_VERSION + 1)),
        "the row d/w0/w0-crm/lead-0 has version",
    ),
]


@pytest.mark.slow
async def test_an_unusable_row_stops_the_worker_and_skips_no_lead(kafka: Broker, namespace: str) -> None:
    """Each bad row is written and deleted in turn. Then the same leads are processed, and unknown rows are left
    alone.
    """
    async with Fleet(kafka.bootstrap, namespace, 2, partitions=2) as line:
        state = line.settings.names.state
        # All in the partition of the bad row: a POST of another one may be under way when its worker stops.
        await line.publish([line.lead(number, "w0") for number in range(10)])
        await line.publish([Record(state, SYSTEM_KEY, system_row(2), (), 0)])
        for key, value, says in BAD_ROWS:
            await line.publish([Record(state, key, value, (), 0)])
            stopped = line.join()
            assert await stopped.ended(40) == 1, stopped.output()
            assert len(stopped.last_words()) == 1, stopped.output()
            assert says in stopped.last_words()[0]
            assert (namespace + "leads", 0) not in await committed(kafka.bootstrap, line.settings.names.worker_app)
            await line.publish([Record(state, key, None, (), 0)])
        assert "lead-0" not in line.summary()["leads"]
        newer = [Record(state, b"z/something", b"new", (), 0), Record(state, b"\xff", b"", (), 0)]
        await line.publish(newer)
        worker = line.join()
        await line.until_over(10, 30)
        line.check_histories()
        assert line.last() == {"accepted": 10}
        assert line.summary()["leads"] == {f"lead-{number}": 1 for number in range(10)}
        assert await line.stop(worker.process) == 0
        assert [(event["partition"], event["count"]) for event in reported(worker, "unknown_rows")] == [(0, 2)]
        kept = {record.key for record in await line.read(state)}
        assert kept >= {b"z/something", b"\xff"}


@pytest.mark.slow
async def test_leads_lost_to_retention_are_counted_and_logged(kafka: Broker, namespace: str) -> None:
    """Also if Kafka has deleted the group's offset, as it does when a group is away for long."""
    async with Fleet(kafka.bootstrap, namespace, 1, partitions=1) as line:
        leads, names = line.leads(60), line.settings.names
        log = TopicPartition(names.leads, 0)
        await line.publish([*leads[:20], Record(names.leads, b"w0", b"no lead", (), 0)])
        worker = line.join()
        await line.until_over(21, 30)
        assert await line.stop(worker.process) == 0
        await line.publish(leads[20:50])
        await remove(kafka.bootstrap, log, 33)
        worker = line.join()
        await line.until_over(39, 30)
        metrics = await asyncio.to_thread(get, worker, "/metrics")
        assert f'stream_app_expired_records_total{{topic="{log.topic}"}} 12.0' in metrics
        assert await line.stop(worker.process) == 0
        assert lost(worker) == [(log.topic, 21, 32, 12)]
        await line.publish(leads[50:])
        await remove(kafka.bootstrap, log, 55)
        await forget(kafka.bootstrap, names.worker_app)
        worker = line.join()
        await line.until_over(45, 30)
        came = [int(row.value) for row in await line.read(names.state) if row.key == passed_key(log.topic)]
        assert lost(worker) == [(log.topic, came[0], 54, 55 - came[0])]
        consumed = {number for number in range(60) if not (20 <= number < 32 or 50 <= number < 54)}
        assert line.summary()["leads"] == {f"lead-{number}": 1 for number in consumed}


@pytest.mark.slow
async def test_replays_lost_to_retention_are_counted_and_logged(kafka: Broker, namespace: str) -> None:
    async with Fleet(kafka.bootstrap, namespace, 1, partitions=1) as line:
        names = line.settings.names
        log = TopicPartition(names.deferred, 0)

        def passed(offset: int) -> Callable[[], Awaitable[bool]]:
            async def is_passed() -> bool:
                return (await committed(kafka.bootstrap, names.replay_app)).get(tuple(log)) == offset

            return is_passed

        back = [Envelope(origin=f"leads/0/{number}", way="deferred").to_headers() for number in range(20)]
        dead_letters = [Record(log.topic, b"w0", b"{}", headers, 0) for headers in back]
        await line.publish(dead_letters[:5])
        replay = member(line, "replay")
        await until(passed(5), 30)
        assert await line.stop(replay.process) == 0
        await line.publish(dead_letters[5:])
        await remove(kafka.bootstrap, log, 12)
        replay = member(line, "replay")
        await until(passed(20), 30)
        metrics = await asyncio.to_thread(get, replay, "/metrics")
        assert f'stream_app_expired_records_total{{topic="{log.topic}"}} 7.0' in metrics
        assert lost(replay) == [(log.topic, 5, 11, 7)]


@pytest.mark.slow
@pytest.mark.parametrize(("which", "command"), [("leads", "worker"), ("state", "worker"), ("dlq", "replay")])
async def test_a_recreated_topic_stops_the_process(which: str, command: str, kafka: Broker, namespace: str) -> None:
    """Even if it is filled at once beyond its former end. The leads that come again are not sent again."""
    async with Fleet(kafka.bootstrap, namespace, 1, partitions=1) as line:
        names = line.settings.names
        topic = getattr(names, which)
        plan = next(plan for plan in line.settings.topic_plan() if plan.name == topic)
        dead_letters = [Record(names.dlq, b"w0", b"{}", POISON.to_headers(), 0)]
        await line.publish([*line.leads(50), *dead_letters])
        process = member(line, command)
        if command == "worker":
            await line.until_over(50, 30)
        else:
            await caught_up(line)
        await asyncio.sleep(2)  # it looks every second: now it has seen the log at its longest
        await delete_topics(kafka.bootstrap, topic)
        await create_topics(kafka.bootstrap, topic, config=plan.config)
        await line.publish([*line.leads(60), *dead_letters, *dead_letters])
        assert await process.ended(40) == 1
        words = process.last_words()
        assert len(words) == 1, words
        assert words[0].startswith(f"{topic}: ")
        assert "set a new kafka.namespace" in words[0]
        assert not line.posted_again()


async def test_a_worker_refuses_an_empty_state_where_lanes_have_sent(kafka: Broker, namespace: str) -> None:
    """No process ran while the topic was lost, so that no id is known. Leads that come again are not sent again."""
    async with Fleet(kafka.bootstrap, namespace, 1, partitions=2) as line:
        names = line.settings.names
        await line.publish(line.leads(3))
        worker = line.join()
        await line.until_over(3, 30)
        assert await line.stop(worker.process) == 0
        await delete_topics(kafka.bootstrap, names.state)
        assert (await line.run("topics"))[0] == 0
        await line.publish(line.leads(3))
        worker = line.join()
        assert await worker.ended(40) == 1
        (words,) = worker.last_words()
        lost = "the rows of its leads and the suppression list are lost"
        assert words.startswith(f"{names.state}/0: it is empty, and {names.lanes}/0 is not: {lost}")
        assert "docs/backup.md" in words
        assert not line.posted_again()


@pytest.mark.parametrize(
    ("command", "patch", "says"),
    [
        ("worker", "owner.PartitionOwner.serve", "are not consumed"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("worker", "owner.LeadPipeline.process", "does not end"),
                ("worker", "owner.PartitionOwner.take_over", "is assigned and not taken over"),
                ("worker", "safe_app.SafeConsumer.perform_seek", "no records are consumed since the last rebalance"),
                ("replay", "forward.Replay.deferred", "leads.deferred/0 do not move"),
                ("replay", "producers.KafkaPublisher.publish", "leads.deferred/0 do not move"),
            )
        ),
    ],
)
async def test_a_stall_is_reported(command: str, patch: str, says: str, kafka: Broker, namespace: str) -> None:
    """A process in which one part hangs reports it in /readyz and in its metrics, for as long as it lasts."""
    owner, _, method = patch.rpartition(".")
    program = (
        "import asyncio, sys; from stream_app.cli.main import main\n"
        "from stream_app.faust_app.fixes import safe_app; from stream_app.kafka import producers\n"
        "from stream_app.partition import owner; from stream_app.replay import forward\n"
        "async def hang(*_): await asyncio.Event().wait()\n"
        f"{owner}.{method} = hang\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    async with Fleet(kafka.bootstrap, namespace, 1, partitions=1, config=QUICK) as line:
        back = Envelope(origin="leads/0/0", way="deferred", lead_id="lead-0")
        await line.publish([*line.leads(1), Record(line.settings.names.deferred, b"w0", b"{}", back.to_headers(), 0)])
        worker = member(line, command, program=("-c", program))
        await line.until(worker.answers, 30, "it runs")

        async def is_reported() -> bool:
            ready = await asyncio.to_thread(get, worker, "/readyz")
            return says in ready and ready.startswith("503 ")

        await until(is_reported, STANDS_STILL_S + 15)
        assert "\nstream_app_stalled 0.0" not in await asyncio.to_thread(get, worker, "/metrics")
        assert reported(worker, "stalled")
        worker.kill()


async def ready(worker: Member, says: str, within_s: float) -> None:
    """Wait until /readyz answers so."""

    async def is_so() -> bool:
        return says in await asyncio.to_thread(get, worker, "/readyz")

    await until(is_so, within_s)


def member(line: Fleet, command: str, program: Sequence[str] = ()) -> Member:
    """A worker or a replay process."""
    process = line.start(command, program=program)
    return Member(process, line.ports[process.pid], line.logs[process.pid])


async def until(true: Callable[[], Awaitable[bool]], within_s: float) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(within_s * BUSY):
        while True:
            if await true():
                return
            await asyncio.sleep(0.1)


def reported(member: Member, event: str) -> list[dict[str, Any]]:
    """Return what it logged under that name."""
    return [line for line in member.logged() if line["event"] == event]


def lost(member: Member) -> list[tuple[str, int, int, int]]:
    """Return what it reported as lost to retention: topic, first and last offset, and the most records that can be."""
    events = reported(member, "lost_to_retention")
    return [(event["topic"], event["first"], event["last"], event["at_most"]) for event in events]


async def remove(bootstrap: str, log: TopicPartition, before: int) -> None:
    """Delete records as retention does."""
    async with admin(bootstrap) as client:
        await client.delete_records({log: RecordsToDelete(before_offset=before)})


async def forget(bootstrap: str, group: str) -> None:
    """Delete the group's offsets, as Kafka does when the group was empty for long."""
    async with admin(bootstrap) as client:
        coordinator = await client.find_coordinator(group)
        answer = await client._client.send(coordinator, DeleteGroupsRequest([group]))
        assert answer.results == [(group, 0)]


def get(member: Member, path: str) -> str:
    """Return the status and the body."""
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{member.port}{path}", timeout=5) as answer:
            return f"{answer.status} {answer.read().decode()}"
    except urllib.error.HTTPError as error:
        with error:
            return f"{error.code} {error.read().decode()}"
