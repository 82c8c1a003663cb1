"""The broker fails in many ways: the worker waits, reports it, and continues by itself.

Checked after a load from outside: nothing lost, nothing sent twice, every history legal, and the
books balance. Idle processes report no trouble, notice a missing Kafka, and end without a
traceback.
"""

import asyncio
import json
import re
import time
import urllib.error
import urllib.request
from pathlib import Path

import msgspec
import pytest

from stream_app.domain.model.tokens import sign
from tests.e2e.broken_broker import (
    alter,
    goes_on,
    loaded,
    nothing_is_acked,
    recoveries,
    replicate,
    second_broker,
)
from tests.e2e.fleet import Fleet
from tests.e2e.member import Member
from tests.support.pace import BUSY, slowness
from tests.support.proxy import ProxiedKafka

pytestmark = pytest.mark.timeout(300)
FROZEN_S = 30  # five times the session timeout


@pytest.mark.slow
async def test_a_broker_restarts(broker: ProxiedKafka, namespace: str) -> None:
    async with loaded(broker, namespace):
        await asyncio.to_thread(broker.restart)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_a_broker_is_frozen_for_longer_than_the_session(
    broker: ProxiedKafka,
    namespace: str,
) -> None:
    """No worker can take over meanwhile, but a worker can be stopped."""
    async with loaded(broker, namespace, says="no answer within 2 s") as line:
        worker = line.members[0]
        other = line.join()
        await line.spread([worker, other], 30)
        broker.freeze()
        try:
            code, _ = await asyncio.gather(other.stop(), asyncio.sleep(FROZEN_S))
        finally:
            broker.thaw()
        assert code == 0, other.output()[-3:]


@pytest.mark.slow
async def test_connections_are_reset_repeatedly(broker: ProxiedKafka, namespace: str) -> None:
    async with broker.proxy() as proxy, loaded(broker, namespace, proxy.address) as line:
        for _ in range(4):
            proxy.cut()
            await asyncio.sleep(0.3)
            proxy.repair()
            await goes_on(line, 60)


@pytest.mark.long
async def test_too_few_replicas(broker: ProxiedKafka, namespace: str, tmp_path: Path) -> None:
    """NOT_ENOUGH_REPLICAS: the status topic needs both replicas, and a broker is gone."""
    where = (
        rf"{namespace}leads\.status/\d did not take it: "
        "NotEnoughReplicasError, fewer of its replicas are in sync"
    )
    async with loaded(broker, namespace, says=where) as line:
        status = line.settings.names.status
        async with second_broker(broker, tmp_path / "second"):
            await replicate(line, broker, status, [1, 2])
        was = await alter(line, status, "min.insync.replicas", "2")
        await nothing_is_acked(line)
        # Nor can Kafka end the transaction that was refused, or the one before, and so the
        # take-over waits as well.
        waits = re.compile(rf"not taken over .*Kafka has not ended the last transaction .*{status}")
        await line.until(
            lambda: any(map(waits.search, recoveries(line.members[0]))),
            60,
            "the take-over logs why",
        )
        await replicate(line, broker, status, [1])
        await alter(line, status, "min.insync.replicas", was)


@pytest.mark.long
async def test_records_are_too_large(broker: ProxiedKafka, namespace: str) -> None:
    """MESSAGE_TOO_LARGE for every record: the worker tries again, less and less often."""
    async with loaded(broker, namespace, says="did not take it: MessageSizeTooLargeError") as line:
        status = line.settings.names.status
        was = await alter(line, status, "max.message.bytes", "100")
        await nothing_is_acked(line)
        await alter(line, status, "max.message.bytes", was)


QUICK = """
[delivery]
request_timeout_s = 3
connect_timeout_s = 1            # must be below request_timeout_s; no lead is sent here
max_request_start_age_s = 2
commit_timeout_s = 2
uncertain_grace_s = 6
"""
STANDS_STILL_S = 2 + 3 + 2 * 2
FAUST_LOOKS_S = 1.25


@pytest.mark.slow
async def test_idle_processes_are_healthy_and_end_cleanly_together_with_kafka(
    broker: ProxiedKafka,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Faust complains of partitions without a fetch after five minutes, here after one second.

    It fetches no state.

    The end is that of `kill $KAFKA $REPLAY`, which once logged a critical "crashed": no checkpoint
    could be saved.
    """
    monkeypatch.setenv("STREAM_PROCESSING_TIMEOUT", "1")
    async with Fleet(broker.bootstrap, namespace, 1) as line:
        members = {name: line.start(name) for name in ("worker", "replay", "gateway")}
        for name in ("worker", "replay"):
            await members[name].joined(60)
        await line.until(
            lambda: "gateway_started" in members["gateway"].log.read_text(),
            60,
            "gateway",
        )
        await asyncio.sleep(1 + 2 * FAUST_LOOKS_S)
        for member in members.values():
            assert not [
                entry for entry in member.logged() if entry["level"] in ("warning", "error")
            ]
            assert not member.last_words()
        await asyncio.to_thread(broker.kill)
        try:
            codes = await asyncio.gather(
                *(member.stop() for member in members.values()),
            )
        finally:
            await asyncio.to_thread(broker.restart)
        assert dict(zip(members, codes, strict=True)) == dict.fromkeys(members, 0)
        for name, member in members.items():
            assert not [
                text for text in member.output() if "Traceback" in text or '"critical"' in text
            ], name


@pytest.mark.long
async def test_an_idle_process_notices_that_kafka_is_gone(
    broker: ProxiedKafka,
    namespace: str,
) -> None:
    async with Fleet(broker.bootstrap, namespace, 1, config=QUICK) as line:
        members = [line.join(), line.start("replay")]
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
    while any([bool(await asyncio.to_thread(member.not_ready)) is ready for member in members]):
        assert time.monotonic() < deadline, [member.describe() for member in members]
        await asyncio.sleep(0.2)


def called_back(line: Fleet, lead_id: str) -> tuple[int, str]:
    """Call the gateway back as a column does. Return status and text of the answer."""
    token = sign(line.settings.callback_keys, "w0", "w0-crm", lead_id)
    body = {"lead_id": lead_id, "callback_token": token, "title": "CEO"}
    request = urllib.request.Request(
        f"http://127.0.0.1:{line.gateway_port}/callbacks/w0/w0-crm",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60 * BUSY) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


@pytest.mark.parametrize("returns", [True, False])
async def test_a_gateway_that_starts_while_kafka_is_away_listens_and_holds(
    broker: ProxiedKafka,
    namespace: str,
    returns: bool,
) -> None:
    """Kafka is away for the gateway alone.

    A busy machine takes longer to start a broker than a caller waits for its answer.
    """
    async with (
        Fleet(broker.bootstrap, namespace, 1, callbacks=True) as line,
        broker.proxy() as proxy,
    ):
        proxy.cut()
        gateway = line.start("gateway", bootstrap=proxy.address)
        await line.receives()
        await line.ready(gateway)
        calling = asyncio.create_task(asyncio.to_thread(called_back, line, "lead-1"))
        async with asyncio.timeout(30 * BUSY):
            while True:
                metrics = await gateway.get("/metrics")
                if "stream_app_callbacks_held 1.0" in metrics:
                    break
                await asyncio.sleep(0.1)
        assert not calling.done(), "it holds the callback, and its caller waits"
        if returns:
            proxy.repair()
            status, text = await calling
            assert status == 200, text
            assert await gateway.stop() == 0
        else:
            assert await gateway.stop() == 0
            status, text = await calling
            assert status == 429
            assert text.startswith("Held in memory"), text
        stored = await line.read(line.settings.names.callbacks)
        leads = [msgspec.json.decode(record.value)["lead_id"] for record in stored]
        assert leads == ["lead-1"] * returns
        events = {entry["event"] for entry in gateway.logged()}
        assert events >= {"waiting_for_kafka", "gateway_started", "gateway_stopped"}
        assert ("kafka_back" in events) == returns
        assert ("callbacks_lost" in events) != returns
