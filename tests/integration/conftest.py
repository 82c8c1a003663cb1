"""Fixtures of several files."""

from collections.abc import AsyncIterator

import pytest

from stream_app.dev.kafka import Broker
from tests.support import state_stores


@pytest.fixture
async def on_kafka(kafka: Broker, namespace: str) -> AsyncIterator[state_stores.KafkaHarness]:
    async with state_stores.on(kafka.bootstrap, namespace) as harness:
        yield harness
