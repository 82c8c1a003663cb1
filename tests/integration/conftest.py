"""Fixtures of several files."""

from collections.abc import AsyncIterator

import pytest

from stream_app.dev.kafka import Broker
from tests.support import ledgers


@pytest.fixture
async def on_kafka(kafka: Broker, namespace: str) -> AsyncIterator[ledgers.KafkaHarness]:
    async with ledgers.on(kafka.bootstrap, namespace) as harness:
        yield harness
