"""How processes end: with one line that gives the cause, and without a traceback for what an operator did."""

import asyncio

import pytest

from tests.e2e.fleet import Fleet, Member
from tests.support.proxy import ProxiedKafka

pytestmark = pytest.mark.timeout(180)


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
            assert is_calm(member), (name, member.said())


def is_calm(member: Member) -> bool:
    """True if its log has nothing that looks like a bug."""
    return not any("Traceback" in text or '"critical"' in text for text in member.said())
