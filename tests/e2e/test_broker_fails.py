"""The broker fails in many ways under load: the worker waits, reports it, and continues by itself.

Checked afterwards from outside: nothing lost, nothing sent twice, every history legal, and the books balance.
"""

import asyncio
import re
from pathlib import Path

import pytest

from tests.e2e.broken_broker import alter, goes_on, loaded, nothing_is_acked, recoveries, replicate, second_broker
from tests.support.proxy import ProxiedKafka

pytestmark = pytest.mark.timeout(300)
FROZEN_S = 30  # five times the session timeout


@pytest.mark.slow
async def test_a_broker_restarts(broker: ProxiedKafka, namespace: str) -> None:
    async with loaded(broker, namespace):
        await asyncio.to_thread(broker.restart)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_a_broker_is_frozen_for_longer_than_the_session(broker: ProxiedKafka, namespace: str) -> None:
    """No worker can take over meanwhile, but a worker can be stopped."""
    async with loaded(broker, namespace, says="no answer within 2 s") as line:
        worker, other = line.members[0], line.join()
        await line.spread([worker, other], 30)
        broker.freeze()
        try:
            code, _ = await asyncio.gather(line.stop(other.process), asyncio.sleep(FROZEN_S))
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
    """NOT_ENOUGH_REPLICAS: the status topic has a replica on a broker that is gone, and needs both."""
    where = rf"{namespace}leads\.status/\d did not take it: NotEnoughReplicasError, fewer of its replicas are in sync"
    async with loaded(broker, namespace, says=where) as line:
        status = line.settings.names.status
        async with second_broker(broker, tmp_path / "second"):
            await replicate(line, broker, status, [1, 2])
        was = await alter(line, status, "min.insync.replicas", "2")
        await nothing_is_acked(line)
        # Nor can Kafka end the transaction that was refused, or the one before, and so the take-over waits as well.
        waits = re.compile(rf"not taken over .*Kafka has not ended the last transaction .*{status}")
        await line.until(lambda: any(map(waits.search, recoveries(line.members[0]))), 60, "the take-over logs why")
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
