"""A worker that lost its partitions sends no lead that its successor also sends, wherever it was
stopped.
"""

import asyncio
import subprocess
import time
from collections import Counter
from functools import partial

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from stream_app.dev.kafka import Broker
from stream_app.domain.model.records import Record
from stream_app.domain.model.topics import COMPACTED
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.transactional_state import TransactionalState
from tests.e2e.fleet import Fleet, now_ms
from tests.e2e.freezing import STATIONS, install
from tests.e2e.load import Load
from tests.e2e.member import Member
from tests.support.kafka import admin
from tests.support.pace import BUSY, slowness
from tests.support.proxy import ProxiedKafka

pytestmark = pytest.mark.timeout(120)
SESSION_S = 6.0
CONFIG = """
[delivery]
request_timeout_s = 7
max_request_start_age_s = 4
commit_timeout_s = 5
uncertain_grace_s = 12
"""
SLOW = """
[[fault]]
kind = "slow"
delay_s = 0.3
"""


EAGER_CLEANER = {
    "segment.ms": "100",
    "min.cleanable.dirty.ratio": "0.001",
    "delete.retention.ms": "0",
}


@pytest.mark.slow
async def test_a_worker_frozen_at_any_step_sends_no_lead_of_its_successor(
    kafka: Broker,
    namespace: str,
) -> None:
    """One worker is frozen at each step, all past their session.

    One more worker takes over all their lanes. On a busy machine, where heartbeats are late, the
    session is longer, so that ten workers keep a lane each; and fewer leads come, because that one
    worker has to send them.
    """
    count = len(STATIONS) + 1
    slow = min(slowness(), BUSY)
    session_s = round(SESSION_S * slow)
    async with Fleet(
        kafka.bootstrap,
        namespace,
        count,
        partitions=count,
        config=CONFIG,
        script=SLOW,
        session_timeout_s=session_s,
    ) as line:
        frozen = {
            station: line.join(change=partial(install, station, line.directory))
            for station in STATIONS
        }
        successor = line.join()
        await line.until(
            lambda: all(member.answers() for member in line.members),
            40,
            "all workers run",
        )
        async with Load(line, 100 / slow) as load:
            await line.spread(line.members, 40)
            (line.directory / "freeze").touch()
            await line.until(
                lambda: all(member.frozen for member in frozen.values()),
                30,
                "all are frozen",
            )
            stopped_ms = now_ms()
            moved = await line.first_request(line.names, stopped_ms + 1_000, session_s + 10)
            assert max(moved.values()) > 3_000, "some lanes had to wait for the session to end"
            thawed_ms = now_ms()
            for member in frozen.values():
                member.thaw()
            ends = dict(
                zip(
                    frozen,
                    await asyncio.gather(*(_end_of(owner, 20) for owner in frozen.values())),
                    strict=True,
                ),
            )
        assert successor.alive
        await line.until_rest(load.count, 40)
        for station, member in frozen.items():
            _check_words(station, member, ends[station])
        leads = {station: (line.directory / f"{station}.lead").read_text() for station in STATIONS}
        late = {request.lead_id for request in line.requests() if request.at_ms >= thawed_ms}
        assert leads["before_age_check"] not in late, "its age check lets no POST start so late"
        _check_ends(line, leads)
        assert await successor.stop() == 0


@pytest.mark.long
@pytest.mark.parametrize("how", ["cut", "stall"])
async def test_a_worker_without_its_broker_sends_no_lead_of_its_successor(
    how: str,
    broker: ProxiedKafka,
    namespace: str,
) -> None:
    """It cannot reach its broker but can reach Clay.

    Another worker takes over its lanes and is not disturbed when it returns.
    """
    async with (
        broker.proxy() as proxy,
        Fleet(broker.bootstrap, namespace, 4, config=CONFIG, script=SLOW) as line,
    ):
        alone = line.join(bootstrap=proxy.address)
        other = line.join()
        async with Load(line, 80) as load:
            owners = await line.spread(line.members, 30)
            lanes = [name for name, owner in owners.items() if owner is alone]
            getattr(proxy, how)()
            cut_ms = now_ms()
            await line.first_request(lanes, cut_ms + 4_000, SESSION_S + 10)
            proxy.repair()
            code = await _end_of(alone, 10)
            if code is None:
                await line.spread(line.members, 20)
            assert other.alive, other.output()[-3:]
        await line.until_rest(load.count, 40)
        _check_words(how, alone, code)
        assert await other.stop() == 0


@pytest.mark.long
async def test_compaction_removes_no_row_that_a_guarantee_needs(
    broker: ProxiedKafka,
    namespace: str,
) -> None:
    """Compaction runs while leads are uncertain, and again at the end: the same leads are still
    duplicates.
    """
    async with Fleet(
        broker.bootstrap,
        namespace,
        2,
        partitions=2,
        config=CONFIG,
        script=SLOW,
    ) as line:
        leads = line.leads(600)
        await line.publish(leads)
        killed = line.join()
        await line.until(lambda: line.last()["accepted"] >= 200, 30, "200 accepted")
        killed.kill()
        await _fence(line)
        await _force_cleaner(line)
        worker = line.join()
        await line.until_rest(600, 40)
        assert line.last()["parked"] > 0, "some were at Clay when the worker was killed"
        assert await worker.stop() == 0
        await _force_cleaner(line)
        worker = line.join()
        await line.publish(leads)
        await line.until_rest(1_200, 40, duplicates=600)
        assert await worker.stop() == 0


async def _fence(line: Fleet) -> None:
    """Fence as a successor that dies at once.

    An open transaction would keep the log cleaner away.
    """
    names = line.settings.names
    for number in range(line.settings.kafka.partitions):
        ledger = TransactionalState(
            KafkaConnection(line.bootstrap),
            f"{names.worker_app}-{number}",
            names.state,
            number,
        )
        await ledger.take_over()
        await ledger.close()


async def _force_cleaner(line: Fleet) -> None:
    """Run the log cleaner until each row is there once, except in the newest segment.

    Then restore the settings.
    """
    topic = line.settings.names.state
    await _configure(line, COMPACTED | EAGER_CLEANER)
    await asyncio.sleep(2 * int(EAGER_CLEANER["segment.ms"]) / 1000)
    # A record more, so that the segment that holds all others is closed; it is a row's end, and no
    # such row is there.
    foreign = f"d/w0/w0-crm/foreign-{now_ms()}"
    partitions = range(line.settings.kafka.partitions)
    await line.publish(
        Record(topic, f"{foreign}-{number}".encode(), None, (), number) for number in partitions
    )
    deadline = time.monotonic() + 20 * BUSY
    while (
        most := max(
            Counter((record.partition, record.key) for record in await line.read(topic)).values(),
        )
    ) > 1:
        assert time.monotonic() < deadline, (
            f"a row is there {most} times still: the log cleaner did not come"
        )
    await _configure(line, COMPACTED)


async def _configure(line: Fleet, config: dict[str, str]) -> None:
    async with admin(line.bootstrap) as client:
        safe = {"min.insync.replicas": "1"}
        await client.alter_configs(
            [
                ConfigResource(
                    ConfigResourceType.TOPIC,
                    line.settings.names.state,
                    configs=config | safe,
                ),
            ],
        )


async def _end_of(member: Member, within_s: float) -> int | None:
    """Return the exit code of a worker that ends by itself, or None for one that rejoined the
    group.

    A worker that has just been cut off or frozen still says that it is ready. So its end is awaited
    first, for as long as it may need.
    """
    try:
        return await member.ended(within_s * slowness())
    except subprocess.TimeoutExpired:
        deadline = time.monotonic() + within_s * BUSY
        while member.alive and bool(await asyncio.to_thread(member.not_ready)):
            assert time.monotonic() < deadline, member.describe()
            await asyncio.sleep(0.1)
        return member.process.returncode


def _check_words(station: str, member: Member, code: int | None) -> None:
    """A fenced worker reports it in one line and exits with a code other than 0."""
    words = member.last_words()
    assert not any("Traceback" in line for line in member.output()), (station, member.output())
    if code is None:
        assert not words, (station, words)
        return
    assert code == 1, (station, code, member.output()[-5:])
    assert len(words) == 1, (station, words)
    assert "later owner" in words[0], (station, words)


def _check_ends(line: Fleet, leads: dict[str, str]) -> None:
    """Check what happened to the leads at which the workers were frozen."""
    by_lead = {history[-1].lead_id: history[-1] for history in line.histories.values()}
    sent = Counter(request.lead_id for request in line.requests())
    where = {station: f"{station}: {line.describe(lead)}" for station, lead in leads.items()}
    for station in (
        "before_write_ahead",
        "request_sent",
        "after_answer",
        "before_settle",
        "after_settle",
    ):
        assert sent[leads[station]] == 1, where[station]
    assert by_lead[leads["before_write_ahead"]].status == "accepted", where["before_write_ahead"]
    for station in (
        "after_write_ahead",
        "before_age_check",
        "after_age_check",
        "after_answer",
        "request_sent",
    ):
        assert by_lead[leads[station]].status == "parked", where[station]
    assert sent[leads["before_age_check"]] == 0, where["before_age_check"]
    assert by_lead[leads["after_settle"]].status == "accepted", where["after_settle"]
