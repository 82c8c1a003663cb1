"""Three brokers, one of which hangs: every lane continues within the session timeout and 10 s.

All leads are on Kafka before the first fault, so a lane without a POST is a stopped lane. Nothing
is lost or sent twice. tests/chaos/test_brokers.py kills and stops brokers as well.
"""

import asyncio
from collections.abc import Iterator
from typing import Final

import pytest

from stream_app.dev.process import StartError
from tests.chaos.brokers import longest_stop_s
from tests.e2e.commands import command
from tests.e2e.fleet import Fleet, now_ms
from tests.support.cluster import all_in_sync, coordinator_of
from tests.support.local_cluster import LocalCluster
from tests.support.pace import slowness

SESSION_S: Final = 15
AFTER_SESSION_S: Final = 10
MAX_SLOWNESS: Final = 3
"""A lane may take so many times as long on a busy machine. The leads last for no longer faults."""
PER_S: Final = 3
LANES: Final = 4
LEADS: Final = 2_400
CONFIG: Final = """
[delivery]
request_timeout_s = 7
max_request_start_age_s = 3
commit_timeout_s = 8
uncertain_grace_s = 11
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    try:
        with LocalCluster() as own:
            yield own
    except StartError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_no_lane_stops_while_each_broker_fails_in_turn(
    cluster: LocalCluster,
    namespace: str,
) -> None:
    async with Fleet(
        cluster.bootstrap,
        namespace,
        LANES,
        config=CONFIG,
        rate_per_s=PER_S,
        replication=3,
        session_timeout_s=SESSION_S,
    ) as line:
        names = line.settings.names
        workers = [line.join(), line.join()]
        replay = line.start("replay")
        await line.publish(line.leads(LEADS))
        await line.spread(workers, 60)
        # The one that coordinates the worker's group comes first, then those that are left.
        first = await coordinator_of(cluster.bootstrap, names.worker_app)
        for broker in sorted(
            cluster.brokers,
            key=lambda name: cluster.brokers.index(name) != first - 1,
        ):
            bound_s = SESSION_S + AFTER_SESSION_S * min(slowness(), MAX_SLOWNESS)
            began_ms = now_ms()
            broker.freeze()
            try:
                await asyncio.sleep(bound_s + 5)  # the lanes go on without the broker
            finally:
                broker.thaw()
            await all_in_sync(
                cluster.bootstrap,
                [topic.name for topic in line.settings.topic_plan()],
                60,
            )
            await asyncio.sleep(2)
            window = (began_ms, now_ms())
            requests = line.requests()
            posts = {
                lane: [post.at_ms for post in requests if post.workspace == lane]
                for lane in line.names
            }
            longest = {lane: longest_stop_s([window], posts[lane], *window) for lane in line.names}
            assert max(longest.values()) < bound_s, longest
        assert all(member.alive for member in (*workers, replay))
        faster = [
            command(line, "rate", f"fast-{lane}", lane, rate_per_s=100, burst=100)
            for lane in line.names
        ]
        await line.publish(faster)
        await line.until_rest(LEADS, LEADS / PER_S / LANES + 60)
        assert [await member.stop() for member in (*workers, replay)] == [0, 0, 0]
        for member in (*workers, replay):
            assert not [text for text in member.output() if "Traceback" in text]


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_processes_and_commands_start_while_a_broker_hangs(
    cluster: LocalCluster,
    namespace: str,
) -> None:
    """The coordinator of the worker's group hangs all the time."""
    async with Fleet(
        cluster.bootstrap,
        namespace,
        LANES,
        config=CONFIG,
        rate_per_s=PER_S,
        replication=3,
        session_timeout_s=SESSION_S,
    ) as line:
        await line.publish(line.leads(40))
        broker = cluster.brokers[
            await coordinator_of(cluster.bootstrap, line.settings.names.worker_app) - 1
        ]
        broker.freeze()
        try:
            worker = line.join()
            replay = line.start("replay")
            asked = await asyncio.gather(line.run("lanes", "--json"), line.run("dlq", "--json"))
            assert [code for code, _ in asked] == [0, 0], asked
            await asyncio.gather(worker.joined(60), replay.joined(60))
            await line.books_balance()
            await line.until_rest(40, 60)
        finally:
            broker.thaw()
        assert [await member.stop() for member in (worker, replay)] == [0, 0]
        await all_in_sync(
            cluster.bootstrap,
            [topic.name for topic in line.settings.topic_plan()],
            60,
        )
