"""Faust apps in this process whose broker is missing, or stops and returns."""

import asyncio
import os
import signal

import pytest

from stream_app.dev.kafka import Broker, LocalKafka
from stream_app.dev.process import free_port
from stream_app.domain.errors import BrokerUnavailable
from stream_app.faust_app import run as faust_run
from stream_app.faust_app.app import FaustOptions, build_app
from stream_app.faust_app.run import run_app
from stream_app.kafka.connection import KafkaConnection
from tests.support.bench import Owner, Recorder, make_bench, running
from tests.support.kafka import publish, until
from tests.support.pace import BUSY
from tests.support.proxy import Proxy


async def test_a_missing_broker_is_reported_with_its_address(namespace: str) -> None:
    nowhere = FaustOptions(namespace, KafkaConnection("127.0.0.1:1"), 1)
    async with asyncio.timeout(10 * BUSY):
        with pytest.raises(BrokerUnavailable, match=r"Kafka at 127\.0\.0\.1:1 did not answer within 1 s"):
            await run_app(build_app(nowhere), broker_wait_s=1)


@pytest.mark.parametrize("comes_back", [True, False])
async def test_a_broker_that_stops_while_the_app_starts_is_waited_for(
    kafka: Broker, namespace: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, comes_back: bool
) -> None:
    """It answered the first check. The app can be stopped meanwhile, too."""

    async def it_is_there(*_: object) -> None: ...

    monkeypatch.setattr(faust_run, "wait_for_kafka", it_is_there)
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


@pytest.mark.long
async def test_a_broker_that_restarts_loses_nothing(namespace: str) -> None:
    seen = Recorder(owner := Owner())
    async with LocalKafka() as kafka:
        bench = await make_bench(kafka, namespace)
        await publish(bench.bootstrap, bench.leads, [b"before"])
        async with running(bench.app({bench.leads: seen}, owner)) as app:
            await until(lambda: seen.consumed)
            await asyncio.to_thread(kafka.kill)
            await asyncio.to_thread(kafka.restart)
            await publish(bench.bootstrap, bench.leads, [b"after"])
            await until(lambda: seen.values[-1] == b"after", 30)
            await until(lambda: seen.inlets[-1].committed() == 2, 30, "a commit after the restart")
            assert app.crash_reason is None


@pytest.mark.slow
async def test_a_stop_does_not_cancel_a_check_of_the_membership(namespace: str) -> None:
    """The consumer's thread ends during a heartbeat that no broker answers."""
    seen = Recorder(owner := Owner())
    async with LocalKafka() as kafka:
        bench = await make_bench(kafka, namespace)
        await publish(bench.bootstrap, bench.leads, [b"0"])
        async with running(bench.app({bench.leads: seen}, owner)) as app:
            await until(lambda: seen.consumed)
            assert 5 < await app.consumer.still_member() <= 6
            kafka.freeze()
            asking = asyncio.create_task(app.consumer.still_member())
            await asyncio.sleep(0.2)
        kafka.thaw()
        assert not asking.done()
        asking.cancel()
