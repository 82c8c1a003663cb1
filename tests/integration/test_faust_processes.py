"""Faust apps as processes and in this one: deaths, a missing broker, a replaced member."""

import asyncio
import os
import signal
from unittest.mock import AsyncMock

import pytest

from stream_app.config import Kafka
from stream_app.dev.kafka import Broker
from stream_app.dev.process import free_port
from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.faust_app import run as faust_run
from stream_app.faust_app.app import build_app
from stream_app.faust_app.run import run_app
from stream_app.kafka.connection import KafkaConnection
from tests.support.bench import Owner, Recorder, make_bench, running
from tests.support.kafka import committed, create_topics, publish, read_committed, until
from tests.support.pace import BUSY, slowness
from tests.support.processes import WorkerProcess, workers
from tests.support.proxy import ProxiedKafka, Proxy

PARTITIONS = 4


async def make_topics(kafka: Broker, namespace: str) -> None:
    names = [namespace + name for name in ("leads", "state", "events")]
    await create_topics(kafka.bootstrap, *names, partitions=PARTITIONS)


async def stop_time_s(worker: WorkerProcess) -> float:
    loop = asyncio.get_running_loop()
    start = loop.time()
    worker.process.send_signal(signal.SIGTERM)
    assert await worker.ended(20) == 0, worker.last
    assert worker.lines["ended"]
    return loop.time() - start


async def test_sigterm_ends_an_idle_worker_and_one_that_only_holds_an_event_within_2_s(
    kafka: Broker, namespace: str
) -> None:
    await make_topics(kafka, namespace)
    async with workers(kafka, namespace, PARTITIONS) as group:
        worker = await group.start()
        await worker.printed("assigned [0, 1, 2, 3]")
        assert await stop_time_s(worker) < 2 * slowness()
        await publish(kafka.bootstrap, namespace + "leads", [b"first", b"hold", b"second"])
        worker = await group.start()
        await worker.printed("took first", "took hold", "took second")
        assert await stop_time_s(worker) < 2 * slowness()
        # What was held is given up and comes again, with what is behind it; what was before it does not.
        assert await committed(kafka.bootstrap, namespace + "group") == {(namespace + "leads", 0): 1}
        worker = await group.start()
        await worker.printed("took hold", "took second")
        assert not worker.lines["took first"]


async def test_sigterm_waits_for_events_in_flight_and_commits_them(kafka: Broker, namespace: str) -> None:
    await make_topics(kafka, namespace)
    await publish(kafka.bootstrap, namespace + "leads", [b"slow 1", b"quick", b"slow 2"])
    async with workers(kafka, namespace, PARTITIONS) as group:
        worker = await group.start(slow_s=3)
        await worker.printed("took slow 1", "took slow 2")
        assert 1 < await stop_time_s(worker) < 6 * slowness()
    assert await committed(kafka.bootstrap, namespace + "group") == {(namespace + "leads", 0): 3}
    assert {key for key, _ in await read_committed(kafka.bootstrap, namespace + "events")} == {
        b"slow 1",
        b"quick",
        b"slow 2",
    }


async def test_a_missing_broker_is_reported_with_its_address(namespace: str) -> None:
    nowhere = build_app(namespace, KafkaConnection("127.0.0.1:1"), Kafka(partitions=1))
    async with asyncio.timeout(10 * BUSY):
        with pytest.raises(BrokerUnavailable, match=r"Kafka at 127\.0\.0\.1:1 did not answer within 1 s"):
            await run_app(nowhere, broker_wait_s=1)


@pytest.mark.parametrize("comes_back", [True, False])
async def test_a_broker_that_stops_while_the_app_starts_is_waited_for(
    kafka: Broker, namespace: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, comes_back: bool
) -> None:
    """It answered the first check. The app can be stopped meanwhile, too."""
    monkeypatch.setattr(faust_run, "wait_for_kafka", AsyncMock())
    bench = await make_bench(kafka, namespace)
    await publish(bench.bootstrap, bench.leads, [b"0"])
    seen = Recorder()
    async with Proxy(free_port(), int(bench.bootstrap.rpartition(":")[2])) as proxy:
        proxy.cut()
        bench.bootstrap = proxy.address
        app = bench.app({bench.leads: seen})
        runs = asyncio.create_task(run_app(app))
        await until(lambda: runs.done() or "cannot connect to Kafka" in caplog.text)
        if comes_back:
            proxy.repair()
            await until(lambda: runs.done() or seen.values == [b"0"])
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(5 * BUSY):
            await runs


@pytest.mark.slow
async def test_a_stop_does_not_cancel_a_check_of_the_membership(broker: ProxiedKafka, namespace: str) -> None:
    """The consumer's thread ends during a heartbeat that no broker answers."""
    seen = Recorder(owner := Owner())
    bench = await make_bench(broker, namespace)
    await publish(bench.bootstrap, bench.leads, [b"0"])
    async with running(bench.app({bench.leads: seen}, owner)) as app:
        await until(lambda: seen.consumed)
        assert 5 < await app.consumer.membership()() <= 6
        broker.freeze()
        asking = asyncio.create_task(app.consumer.membership()())
        await asyncio.sleep(0.2)
    broker.thaw()
    assert not asking.done()
    asking.cancel()


async def test_a_member_that_was_evicted_and_has_joined_again_stays_evicted(kafka: Broker, namespace: str) -> None:
    """Its partitions may have had another owner meanwhile, which must not be fenced in the name of the new member."""
    seen = Recorder(owner := Owner())
    bench = await make_bench(kafka, namespace)
    await publish(bench.bootstrap, bench.leads, [b"0"])
    async with running(bench.app({bench.leads: seen}, owner)) as app:
        await until(lambda: seen.consumed)
        evicted, still_member = app.consumer.member_id, app.consumer.membership()
        assert await still_member() > 0
        await app.consumer._thread.call_thread(app.consumer._thread._consumer._coordinator._maybe_leave_group)
        await until(lambda: app.consumer.member_id != evicted)
        assert await app.consumer.membership()() > 0
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(still_member(), 3)
