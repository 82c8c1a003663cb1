"""Idle processes and how they end: no trouble is reported, no traceback logged, and a missing Kafka is noticed."""

import asyncio
import time

import pytest

from stream_app.dev.kafka import Broker
from tests.e2e.fleet import Fleet, Member
from tests.support.pace import slowness
from tests.support.proxy import ProxiedKafka

pytestmark = pytest.mark.timeout(180)


QUICK = """
[delivery]
request_timeout_s = 3
connect_timeout_s = 1
max_request_start_age_s = 2
commit_timeout_s = 2
uncertain_grace_s = 6
"""
STANDS_STILL_S = 2 + 3 + 2 * 2
FAUST_LOOKS_S = 1.25


@pytest.mark.slow
async def test_an_idle_process_is_healthy(kafka: Broker, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After five minutes Faust complains of partitions without a fetch. The state's partitions are never fetched by it.
    Here it complains after a second.
    """
    monkeypatch.setenv("STREAM_PROCESSING_TIMEOUT", "1")
    async with Fleet(kafka.bootstrap, namespace, 1) as line:
        members = [line.join(), line.member(line.start("replay"))]
        for member in members:
            await member.joined(40)
        await asyncio.sleep(1 + 2 * FAUST_LOOKS_S)
        for member in members:
            assert not [entry for entry in member.logged() if entry["level"] in ("warning", "error")]
            assert not member.last_words()


@pytest.mark.long
async def test_an_idle_process_notices_that_kafka_is_gone(broker: ProxiedKafka, namespace: str) -> None:
    async with Fleet(broker.bootstrap, namespace, 1, config=QUICK) as line:
        members = [line.join(), line.member(line.start("replay"))]
        for member in members:
            await member.joined(40)
        await asyncio.sleep(2)  # rows are read
        broker.freeze()
        try:
            await until(members, ready=False, within_s=STANDS_STILL_S + 5)
        finally:
            broker.thaw()
        await until(members, ready=True, within_s=20)
        for member in members:
            still = [entry["what"] for entry in member.logged() if entry["event"] == "stalled"]
            assert still == [["the group accepts no heartbeat of this process"]], member.output()


async def until(members: list[Member], *, ready: bool, within_s: float) -> None:
    deadline = time.monotonic() + within_s * slowness()
    while any([await asyncio.to_thread(member.ready) is not ready for member in members]):
        assert time.monotonic() < deadline, [member.output()[-3:] for member in members]
        await asyncio.sleep(0.2)


@pytest.mark.slow
async def test_a_process_that_is_stopped_together_with_kafka_ends_cleanly(broker: ProxiedKafka, namespace: str) -> None:
    """As `kill $KAFKA $REPLAY` does. It once logged a critical "crashed", because the checkpoint could not be saved."""
    async with Fleet(broker.bootstrap, namespace, 1) as line:
        members = {name: line.member(line.start(name)) for name in ("worker", "replay", "gateway")}
        for name in ("worker", "replay"):
            await members[name].joined(60)
        await line.until(
            lambda: "gateway_started" in line.logs[members["gateway"].process.pid].read_text(), 60, "gateway"
        )
        await asyncio.to_thread(broker.kill)
        try:
            codes = await asyncio.gather(*(line.stop(member.process) for member in members.values()))
        finally:
            await asyncio.to_thread(broker.restart)
        assert dict(zip(members, codes, strict=True)) == dict.fromkeys(members, 0)
        for name, member in members.items():
            assert is_calm(member), (name, member.output())


def is_calm(member: Member) -> bool:
    """True if its log has nothing that looks like a bug."""
    return not any("Traceback" in text or '"critical"' in text for text in member.output())
