"""Unusable rows, leads lost to retention, recreated topics and stalls: each is reported."""

import asyncio
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition

from stream_app.client.lanes.views import last_views
from stream_app.dev.kafka import Broker
from stream_app.dev.process import LOOPBACK
from stream_app.domain.delivery.envelope import Envelope
from stream_app.domain.delivery.state_machine import delivery_key, lane_key, passed_key
from stream_app.domain.model.records import Record
from stream_app.domain.model.system import SYSTEM_KEY, system_row
from stream_app.kafka.readers import Reader
from stream_app.kafka.topics import TopicWatch
from stream_app.partition.runner import RecordRunner
from stream_app.replay.forward import Replay
from tests.e2e.behind import caught_up, eventually
from tests.e2e.fleet import Fleet
from tests.e2e.forgetting import forget
from tests.e2e.member import Member
from tests.support.kafka import committed, create_topics, delete_records, delete_topics
from tests.support.pace import BUSY

pytestmark = pytest.mark.timeout(120)
QUICK = """
[delivery]
request_timeout_s = 3
connect_timeout_s = 1            # must be below request_timeout_s; no lead is sent here
max_request_start_age_s = 1
commit_timeout_s = 3
uncertain_grace_s = 5
"""
STANDS_STILL_S = 1 + 3 + 2 * 3
POISON = Envelope(origin="leads/0/0", disposition="poison")
BAD_ROWS = {
    lane_key("w0"): "the row l/w0 of the state topic cannot be read",
    delivery_key(
        "w0",
        "w0-crm",
        "lead-0",
    ): "the row d/w0/w0-crm/lead-0 of the state topic cannot be read",
}
"""Rows that are no JSON, and what the worker says at its take-over or at the lead. tests/partition
has all kinds.
"""


@pytest.mark.slow
async def test_an_unusable_row_stops_the_worker_and_skips_no_lead(
    kafka: Broker,
    namespace: str,
) -> None:
    """Each bad row is written and deleted in turn.

    Then the same leads are processed, and unknown rows are left alone.
    """
    async with Fleet(kafka.bootstrap, namespace, 2, partitions=2) as line:
        state = line.settings.names.state
        # All in the partition of the bad row: a POST of another one may be under way when its
        # worker stops.
        await line.publish([line.lead(number, "w0") for number in range(10)])
        await line.publish([Record(state, SYSTEM_KEY, system_row(2), (), 0)])
        for key, says in BAD_ROWS.items():
            await line.publish([Record(state, key, b"{", (), 0)])
            stopped = line.join()
            assert await stopped.ended(40 * BUSY) == 1, stopped.output()
            assert len(stopped.last_words()) == 1, stopped.output()
            assert says in stopped.last_words()[0]
            assert (namespace + "leads", 0) not in await committed(
                kafka.bootstrap,
                line.settings.names.worker_app,
            )
            await line.publish([Record(state, key, None, (), 0)])
        assert "lead-0" not in line.summary()["leads"]
        newer = [Record(state, b"z/something", b"new", (), 0), Record(state, b"\xff", b"", (), 0)]
        await line.publish(newer)
        worker = line.join()
        await line.until_over(10, 30)
        line.check_histories()
        assert line.last() == {"accepted": 10}
        assert line.summary()["leads"] == {f"lead-{number}": 1 for number in range(10)}
        assert await worker.stop() == 0
        assert [
            (event["partition"], event["count"]) for event in reported(worker, "unknown_rows")
        ] == [(0, 2)]
        kept = {record.key for record in await line.read(state)}
        assert kept >= {b"z/something", b"\xff"}


@pytest.mark.slow
async def test_leads_lost_to_retention_are_counted_and_logged(
    kafka: Broker,
    namespace: str,
) -> None:
    """Also if Kafka has deleted the group's offset, as it does when a group is away for long."""
    async with Fleet(kafka.bootstrap, namespace, 1, partitions=1) as line:
        leads = line.leads(60)
        names = line.settings.names
        log = TopicPartition(names.leads, 0)
        await line.publish([*leads[:20], Record(names.leads, b"w0", b"no lead", (), 0)])
        worker = line.join()
        await line.until_over(21, 30)
        assert await worker.stop() == 0
        await line.publish(leads[20:50])
        await delete_records(kafka.bootstrap, log, 33)
        worker = line.join()
        await line.until_over(39, 30)
        metrics = await asyncio.to_thread(get, worker, "/metrics")
        assert f'stream_app_expired_records_total{{topic="{log.topic}"}} 12.0' in metrics
        assert await worker.stop() == 0
        assert lost(worker) == [(log.topic, 21, 32, 12)]
        await line.publish(leads[50:])
        await delete_records(kafka.bootstrap, log, 55)
        await forget(kafka.bootstrap, names.worker_app)
        worker = line.join()
        await line.until_over(45, 30)
        came = [
            int(row.value)
            for row in await line.read(names.state)
            if row.key == passed_key(log.topic)
        ]
        assert lost(worker) == [(log.topic, came[0], 54, 55 - came[0])]
        consumed = {number for number in range(60) if not (20 <= number < 32 or 50 <= number < 54)}
        assert line.summary()["leads"] == {f"lead-{number}": 1 for number in consumed}


@pytest.mark.slow
async def test_replays_lost_to_retention_are_counted_and_logged(
    kafka: Broker,
    namespace: str,
) -> None:
    async with Fleet(kafka.bootstrap, namespace, 1, partitions=1) as line:
        names = line.settings.names
        log = TopicPartition(names.deferred, 0)

        async def missing(offset: int) -> str:
            reached = (await committed(kafka.bootstrap, names.replay_app)).get(tuple(log))
            return "" if reached == offset else f"the group is at {reached}"

        back = [
            Envelope(origin=f"leads/0/{number}", way="deferred").to_headers()
            for number in range(20)
        ]
        dead_letters = [Record(log.topic, b"w0", b"{}", headers, 0) for headers in back]
        await line.publish(dead_letters[:5])
        replay = line.start("replay")
        await eventually(lambda: missing(5), 30)
        assert await replay.stop() == 0
        await line.publish(dead_letters[5:])
        await delete_records(kafka.bootstrap, log, 12)
        replay = line.start("replay")
        await eventually(lambda: missing(20), 30)
        metrics = await asyncio.to_thread(get, replay, "/metrics")
        assert f'stream_app_expired_records_total{{topic="{log.topic}"}} 7.0' in metrics
        assert lost(replay) == [(log.topic, 5, 11, 7)]


@pytest.mark.slow
async def test_a_recreated_topic_stops_the_process(kafka: Broker, namespace: str) -> None:
    """Even if it is filled at once beyond its former end.

    The leads that come again are not sent again.
    """
    async with Fleet(kafka.bootstrap, namespace, 1, partitions=1) as line:
        names = line.settings.names
        dead_letters = [Record(names.dlq, b"w0", b"{}", POISON.to_headers(), 0)]
        await line.publish([*line.leads(50), *dead_letters])
        looks = Looks(line)
        replay = line.start("replay", change=looks.of("replay"))
        readers = {names.leads: line.join(change=looks.of("worker")), names.dlq: replay}
        await line.until_over(50, 30)
        await caught_up(line)
        await looks.again()  # they have seen the logs at their longest
        await recreate(line, *readers)
        await line.publish([*line.leads(60), *dead_letters, *dead_letters])
        for topic, process in readers.items():
            await says_that_it_was_recreated(process, topic)
        assert not line.posted_again()


async def test_a_worker_refuses_an_empty_state_where_lanes_have_sent(
    kafka: Broker,
    namespace: str,
) -> None:
    """Nor does the worker go on that runs while the topic is lost.

    Leads that come again are not sent again.
    """
    async with Fleet(kafka.bootstrap, namespace, 1, partitions=2) as line:
        names = line.settings.names
        await line.publish(line.leads(3))
        looks = Looks(line)
        worker = line.join(change=looks.of("worker"))
        replay = line.start("replay", change=looks.of("replay"))
        await line.until_over(3, 30)
        await looks.again()  # they have seen the topic
        await recreate(line, names.state)
        await says_that_it_was_recreated(worker, names.state)
        await says_that_it_was_recreated(replay, names.state)
        await recreate(line, names.state)  # now no process runs: it stays empty
        await line.publish(line.leads(3))
        worker = line.join()
        assert await worker.ended(40 * BUSY) == 1
        (words,) = worker.last_words()
        lost = "the rows of its leads and the suppression list are lost"
        assert words.startswith(f"{names.state}/0: it is empty, and {names.lanes}/0 is not: {lost}")
        assert "docs/backup.md" in words
        assert not line.posted_again()


async def test_lanes_are_written_again_after_their_topic_was_lost(
    kafka: Broker,
    namespace: str,
) -> None:
    """They do not change any more, and their views are the copy of what was spent.

    No process ends.
    """
    async with Fleet(kafka.bootstrap, namespace, 1, partitions=2) as line:
        await line.publish(line.leads(3))
        looks = Looks(line)
        members = [line.join(change=looks.of("worker")), line.start("replay")]
        await line.until_over(3, 30)

        async def lacking() -> object:
            """What the last step has changed is published a second later."""
            view = (await last_views(line.settings)).get("w0")
            if view is None:
                return "no view"
            return "" if (view.submissions, view.calls) == (3, 3) else view

        await eventually(lacking, 30)
        await looks.again()  # the watch has seen the topic at its longest
        before = await last_views(line.settings)
        await recreate(line, line.settings.names.lanes)

        async def missing() -> str:
            views = await last_views(line.settings)
            return "" if "w0" in views else f"only the lanes of {[*views]} are there"

        await eventually(missing, 30)
        after = (await last_views(line.settings))["w0"]
        assert after.meters == before["w0"].meters
        assert after.webhooks == before["w0"].webhooks
        assert all(member.answers() for member in members)


async def recreate(line: Fleet, *topics: str) -> None:
    """Delete these topics, and create them as they were planned."""
    await delete_topics(line.bootstrap, *topics)
    for plan in line.settings.topic_plan():
        if plan.name in topics:
            await create_topics(
                line.bootstrap,
                plan.name,
                partitions=plan.partitions,
                config=plan.config,
            )


class Looks:
    """When processes of a pipeline look at their topics, which they do every second."""

    def __init__(self, line: Fleet) -> None:
        self._line = line
        self._files: list[Path] = []

    def of(self, name: str) -> Callable[[], None]:
        """Return a change of a process that notes each of its looks."""
        file = self._line.directory / f"looks-of-{name}"
        file.touch()
        self._files.append(file)
        return partial(note_looks, file)

    async def again(self) -> None:
        """Wait until each process has begun and ended a look from now on."""
        before = {file: file.stat().st_size for file in self._files}
        await self._line.until(
            # the next look to end may have begun before
            lambda: all(file.stat().st_size >= size + 2 for file, size in before.items()),
            30,
            "they look at their topics",
        )


def note_looks(file: Path) -> None:
    """Add a byte to this file at the end of each look of this process."""
    look = TopicWatch.look

    async def noted(self: TopicWatch, reader: Reader) -> None:
        await look(self, reader)
        with file.open("ab") as looks:
            looks.write(b".")

    TopicWatch.look = noted  # type: ignore[method-assign]  # the point of this test


async def says_that_it_was_recreated(process: Member, topic: str) -> None:
    """Wait until the process ends with one line about that topic."""
    assert await process.ended(40 * BUSY) == 1
    (words,) = process.last_words()
    assert words.startswith(f"{topic}: ")
    assert "set a new kafka.namespace" in words


def hang(owner: type, name: str) -> None:
    """Let this method never end."""

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    assert callable(getattr(owner, name))
    setattr(owner, name, never)


HANGS = {
    "worker": (partial(hang, RecordRunner, "serve"), "are not consumed"),
    "replay": (partial(hang, Replay, "deferred"), "leads.deferred/0 do not move"),
}
"""Process -> what hangs in it, and what it reports. tests/unit has what else can hang."""


async def test_a_stall_is_reported(kafka: Broker, namespace: str) -> None:
    """A process in which one part hangs reports it in /readyz and in its metrics, for as long as it
    lasts.
    """
    async with Fleet(kafka.bootstrap, namespace, 1, partitions=1, config=QUICK) as line:
        back = Envelope(origin="leads/0/0", way="deferred", lead_id="lead-0")
        await line.publish(
            [
                *line.leads(1),
                Record(line.settings.names.deferred, b"w0", b"{}", back.to_headers(), 0),
            ],
        )
        members = {name: line.start(name, change=HANGS[name][0]) for name in HANGS}
        await line.until(
            lambda: all(member.answers() for member in members.values()),
            30,
            "they run",
        )
        for name, member in members.items():

            async def missing(member: Member = member, says: str = HANGS[name][1]) -> str:
                ready = await asyncio.to_thread(get, member, "/readyz")
                return "" if says in ready and ready.startswith("503 ") else ready

            await eventually(missing, STANDS_STILL_S + 15)
            assert "\nstream_app_stalled 0.0" not in await asyncio.to_thread(
                get,
                member,
                "/metrics",
            )
            assert reported(member, "stalled")
            member.kill()


def reported(member: Member, event: str) -> list[dict[str, Any]]:
    """Return what it logged under that name."""
    return [line for line in member.logged() if line["event"] == event]


def lost(member: Member) -> list[tuple[str, int, int, int]]:
    """Return what it reported as lost to retention: topic, first and last offset, and the most
    records that can be.
    """
    events = reported(member, "lost_to_retention")
    return [(event["topic"], event["first"], event["last"], event["at_most"]) for event in events]


def get(member: Member, path: str) -> str:
    """Return the status and the body."""
    try:
        with urllib.request.urlopen(
            f"http://{LOOPBACK}:{member.port}{path}",
            timeout=5 * BUSY,
        ) as answer:
            return f"{answer.status} {answer.read().decode()}"
    except urllib.error.HTTPError as error:
        with error:
            return f"{error.code} {error.read().decode()}"
