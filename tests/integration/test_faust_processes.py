"""Faust apps as processes and in this one: deaths, a missing broker, a replaced member."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
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
from tests.support.faust_bench import Owner, Recorder, make_bench, running
from tests.support.kafka import committed, create_topics, publish, read_committed, until
from tests.support.pace import BUSY, slowness
from tests.support.proxy import ProxiedKafka, Proxy

PARTITIONS = 4


class WorkerProcess:
    """One `tests.support.worker`. What it says is in its log."""

    def __init__(self, settings: dict[str, Any], log: Path) -> None:
        self._log = log
        argv = [sys.executable, "-m", "tests.support.worker", json.dumps(settings)]
        with log.open("wb") as file:
            self.process = subprocess.Popen(argv, stdout=file, stderr=subprocess.STDOUT)

    @property
    def lines(self) -> list[str]:
        return self._log.read_text(errors="replace").splitlines()

    async def printed(self, *lines: str) -> None:
        await until(lambda: set(lines) <= set(self.lines), 20, f"{lines} from a worker")

    async def stop_time_s(self) -> float:
        """Send SIGTERM. Return the seconds until it has ended."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(self.process.wait, 20 * BUSY) == 0, self.lines
        assert "ended" in self.lines
        return time.monotonic() - began


@pytest.fixture
async def start(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
) -> AsyncIterator[Callable[[], WorkerProcess]]:
    """Starts workers of one group on topics of their own.

    Those that still run at the end of the test are killed.
    """
    await create_topics(
        kafka.bootstrap,
        *(namespace + name for name in ("leads", "state", "events")),
        partitions=PARTITIONS,
    )
    settings = {
        "bootstrap": kafka.bootstrap,
        "namespace": namespace,
        "partitions": PARTITIONS,
        "slow_s": 3 * slowness(),
    }
    started: list[WorkerProcess] = []

    def one_more() -> WorkerProcess:
        started.append(WorkerProcess(settings, tmp_path / f"{len(started)}.log"))
        return started[-1]

    yield one_more
    for worker in started:
        worker.process.kill()
        worker.process.wait(10 * BUSY)


async def test_sigterm_ends_an_idle_worker_and_one_that_only_holds_an_event_within_2_s(
    kafka: Broker,
    namespace: str,
    start: Callable[[], WorkerProcess],
) -> None:
    worker = start()
    await worker.printed("assigned [0, 1, 2, 3]")
    assert await worker.stop_time_s() < 2 * slowness()
    await publish(kafka.bootstrap, namespace + "leads", [b"first", b"hold", b"second"])
    worker = start()
    await worker.printed("took first", "took hold", "took second")
    assert await worker.stop_time_s() < 2 * slowness()
    # What was held is given up and comes again, with what is behind it; what was before it does
    # not.
    assert await committed(kafka.bootstrap, namespace + "group") == {(namespace + "leads", 0): 1}
    worker = start()
    await worker.printed("took hold", "took second")
    assert "took first" not in worker.lines


async def test_sigterm_waits_for_events_in_flight_and_commits_them(
    kafka: Broker,
    namespace: str,
    start: Callable[[], WorkerProcess],
) -> None:
    await publish(kafka.bootstrap, namespace + "leads", [b"slow 1", b"quick", b"slow 2"])
    worker = start()
    await worker.printed("took slow 1", "took slow 2")
    assert 1 < await worker.stop_time_s() < 6 * slowness()
    assert await committed(kafka.bootstrap, namespace + "group") == {(namespace + "leads", 0): 3}
    assert {key for key, _ in await read_committed(kafka.bootstrap, namespace + "events")} == {
        b"slow 1",
        b"quick",
        b"slow 2",
    }


async def test_a_missing_broker_is_reported_with_its_address(namespace: str) -> None:
    nowhere = build_app(namespace, KafkaConnection("127.0.0.1:1"), Kafka(partitions=1))
    async with asyncio.timeout(10 * BUSY):
        with pytest.raises(
            BrokerUnavailable,
            match=r"Kafka at 127\.0\.0\.1:1 did not answer within 1 s",
        ):
            await run_app(nowhere, broker_wait_s=1)


@pytest.mark.parametrize("comes_back", [True, False])
async def test_a_broker_that_stops_while_the_app_starts_is_waited_for(
    kafka: Broker,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    comes_back: bool,
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
async def test_a_stop_does_not_cancel_a_check_of_the_membership(
    broker: ProxiedKafka,
    namespace: str,
) -> None:
    """The consumer's thread ends during a heartbeat that no broker answers."""
    seen = Recorder(owner := Owner())
    bench = await make_bench(broker, namespace)
    await publish(bench.bootstrap, bench.leads, [b"0"])
    async with running(bench.app({bench.leads: seen}, owner)) as app:
        await until(lambda: seen.consumed)
        async with asyncio.timeout(30 * BUSY):
            # An answer that takes long leaves less of the session of 6 s.
            while (left_s := await app.consumer.membership()()) <= 5:
                pass
        assert left_s <= 6
        broker.freeze()
        asking = asyncio.create_task(app.consumer.membership()())
        await asyncio.sleep(0.2)
    broker.thaw()
    assert not asking.done()
    asking.cancel()


async def test_a_member_that_was_evicted_and_has_joined_again_stays_evicted(
    kafka: Broker,
    namespace: str,
) -> None:
    """Its partitions may have had another owner meanwhile, which must not be fenced in the name of
    the new member.
    """
    seen = Recorder(owner := Owner())
    bench = await make_bench(kafka, namespace)
    await publish(bench.bootstrap, bench.leads, [b"0"])
    async with running(bench.app({bench.leads: seen}, owner)) as app:
        await until(lambda: seen.consumed)
        evicted = app.consumer.member_id
        still_member = app.consumer.membership()
        assert await still_member() > 0
        await app.consumer._thread.call_thread(
            app.consumer._thread._consumer._coordinator._maybe_leave_group,
        )
        await until(lambda: app.consumer.member_id != evicted)
        assert await app.consumer.membership()() > 0
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(still_member(), 3)
