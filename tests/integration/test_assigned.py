"""What is reported of assigned partitions on real Kafka, and of their takeover when the process is
about to end.
"""

import asyncio
import time

from stream_app.dev.kafka import Broker
from stream_app.domain.views.lane import Position
from stream_app.faust_app.run import assigned, committed, membership
from stream_app.services.backlog import BacklogCount
from stream_app.tasks import cancel
from tests.support.faust_bench import PARTITIONS, FaustBench, Owner, Recorder, make_bench, running
from tests.support.kafka import create_topics, publish, publish_transactions, until
from tests.support.pace import BUSY, slowness
from tests.upstream.apps import rebalance


async def test_a_kept_partition_that_stalls_after_a_rebalance_is_named(
    kafka: Broker,
    namespace: str,
) -> None:
    bench = await make_bench(kafka, namespace)
    owner = Owner()
    recorder = Recorder()
    resuming = "no records are consumed since the last rebalance"
    app = bench.app({bench.leads: recorder}, owner)
    hangs = asyncio.Event()

    async def hang() -> None:
        hangs.set()
        await asyncio.Event().wait()

    async with running(app):
        await publish(kafka.bootstrap, bench.leads, [b"first"])
        await until(lambda: recorder.consumed)
        assert resuming not in membership(app)
        app.consumer.perform_seek = hang
        await rebalance(app)
        async with asyncio.timeout(10 * BUSY):
            await hangs.wait()
        await publish(kafka.bootstrap, bench.leads, [b"second"])
        assert owner.owned == {0, 1, 2, 3}
        assert membership(app)[resuming] == app.consumer_generation_id
        assert not any(assigned(app).values()), "nothing else shows it"


async def test_a_transaction_marker_is_no_waiting_record(kafka: Broker, namespace: str) -> None:
    """The marker is the last offset, after all that was acked.

    It is no record, so none waits on Kafka.
    """
    bench = await make_bench(kafka, namespace)
    recorder = Recorder()
    app = bench.app({bench.leads: recorder})
    counted = BacklogCount(
        app.connection,
        lambda: committed(app),
        lambda: {(bench.leads, 0): Position(5, 1)},
    )
    async with running(app):
        await publish_transactions(
            kafka.bootstrap,
            bench.leads,
            [(True, [b"0", b"1"]), (True, [b"2"])],
        )
        await until(lambda: len(recorder.consumed) == 3)
        counting = asyncio.create_task(counted.run())
        empty = {(bench.leads, number): 0 for number in range(4)}
        await until(
            lambda: counted.counts() == empty | {(bench.leads, 0): 1},
            what="one waits in memory",
        )
        await cancel([counting])


async def test_a_topic_that_the_broker_did_not_know_yet_is_assigned_soon(
    kafka: Broker,
    namespace: str,
) -> None:
    """A broker may learn of a new topic after the worker has joined its group. aiokafka asks again
    in 5 minutes.
    """
    bench = FaustBench(kafka, namespace)
    recorder = Recorder()
    async with running(bench.app({bench.leads: recorder})) as app:
        await until(lambda: app.consumer_generation_id > 0, what="the join")
        await create_topics(kafka.bootstrap, bench.leads, partitions=PARTITIONS)
        began = time.monotonic()
        await publish(kafka.bootstrap, bench.leads, [b"first"])
        await until(lambda: recorder.consumed, within_s=30)
        assert time.monotonic() - began < 10 * slowness(), "aiokafka asks again after five minutes"
