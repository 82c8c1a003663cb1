"""Workers join and leave under load: nothing is lost or sent twice, and lanes move soon."""

import asyncio
import time

import pytest

from stream_app.dev.kafka import Broker
from tests.e2e.fleet import Fleet, now_ms
from tests.e2e.load import Load
from tests.e2e.member import Member
from tests.support.pace import BUSY, slowness

pytestmark = pytest.mark.timeout(120)
SESSION_S = 6.0
LOAD_S = 1.0  # reading the state of a partition: a few thousand rows here
MAX_REQUEST_S = 0.3
STRAGGLERS_MS = 300  # what it had sent before its end may be read by Clay a moment later
SLOW = f"""
[[fault]]
kind = "slow"
delay_s = {MAX_REQUEST_S}
"""


@pytest.mark.long
async def test_workers_join_and_leave_under_load(kafka: Broker, namespace: str) -> None:
    async with Fleet(kafka.bootstrap, namespace, 6, partitions=6, script=SLOW) as line:
        first = line.join()
        second = line.join()
        async with Load(line, 120) as load:
            await line.spread([first, second], 30)
            third = line.join()
            owners = await line.spread([first, second, third], 30)

            killed_ms = now_ms()
            first.kill()
            assert (
                await _moved(line, owners, first, killed_ms, 20)
                < SESSION_S + (3 + LOAD_S) * slowness()
            )

            team = [line.join(), second, third]
            for number, leaving in enumerate(list(team)):  # a rolling restart
                owners = await line.spread(team, 30)
                left_ms = now_ms()
                moving = asyncio.create_task(_moved(line, owners, leaving, left_ms, 10))
                assert await leaving.stop() == 0, leaving.output()[-3:]
                assert await moving < (5 + MAX_REQUEST_S) * slowness()
                team[number] = line.join()
        await line.until_rest(load.count, 40)
        assert not any("Traceback" in text for member in line.members for text in member.output())
        parked = line.last()["parked"]
        assert parked <= 200, "only the one that was killed left leads uncertain"


async def _moved(
    line: Fleet,
    owners: dict[str, Member],
    gone: Member,
    at_ms: int,
    within_s: float,
) -> float:
    """Return the seconds until another worker served all lanes of `gone`."""
    lanes = [name for name, owner in owners.items() if owner is gone]
    assert lanes
    await gone.ended(within_s * BUSY)  # what it still sends on its way out is its own
    ended_ms = max(at_ms, now_ms())
    moved = await line.first_request(lanes, ended_ms + STRAGGLERS_MS, within_s)
    return (ended_ms - at_ms + STRAGGLERS_MS + max(moved.values())) / 1000


async def test_a_held_lead_blocks_neither_a_rebalance_nor_sigterm(
    kafka: Broker,
    namespace: str,
) -> None:
    """One lane is suspended by 401, one held by its breaker.

    The third continues while workers join and leave.
    """
    async with Fleet(
        kafka.bootstrap,
        namespace,
        3,
        partitions=3,
        lane=HELD_FOR_LONG,
        script=SLOW,
    ) as line:
        first = line.join()
        second = line.join()
        async with Load(line, 60) as load:
            await line.spread([first, second], 30)
            line.control(
                "POST",
                "/control/faults",
                [
                    {"kind": "unauthorized", "workspace": "w0"},
                    {"kind": "status_before", "status": 503, "workspace": "w1"},
                ],
            )
            line.control("DELETE", "/control/faults?kind=slow")
            await line.until(
                lambda: _held(line) >= {"held_paused", "held_outage"},
                20,
                "two lanes are held",
            )
            third = line.join()
            began = time.monotonic()
            await third.joined(10)
            assert time.monotonic() - began < 10 * slowness()
            request = await line.first_request(["w2"], now_ms(), 10)
            assert request["w2"] < 10_000 * slowness()
            for member in (first, second, third):
                began = time.monotonic()
                assert await member.stop() == 0, member.output()[-3:]
                assert time.monotonic() - began < (10 + MAX_REQUEST_S) * slowness()
            line.control("DELETE", "/control/faults")
        assert not line.posted_again()
        line.check_histories()
        assert load.count > 0
        still = {"received", "sending", "refused", "held_paused", "held_outage"}
        assert set(line.last()) <= {"accepted", "parked"} | still, (
            "a lead that is held is neither lost nor answered"
        )


HELD_FOR_LONG = """
[workspaces.{name}.breaker]
open_s = 60
"""


def _held(line: Fleet) -> set[str]:
    return {history[-1].status for history in list(line.histories.values())}
