"""Fixtures of several files."""

from collections.abc import AsyncIterator

import pytest

from stream_app.client.doctor import checks, gateways
from stream_app.dev.kafka import Broker
from tests.support import state_stores
from tests.support.pace import BUSY


@pytest.fixture(autouse=True)
def _patient_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check waits as long as a busy machine needs."""
    for module in (checks, gateways):
        monkeypatch.setattr(module, "_WITHIN_S", module._WITHIN_S * BUSY)


@pytest.fixture
async def on_kafka(kafka: Broker, namespace: str) -> AsyncIterator[state_stores.KafkaHarness]:
    async with state_stores.on(kafka.bootstrap, namespace) as harness:
        yield harness
