"""Fixtures for all tests: one real Kafka and one real Redis a run, and a prefix of its own for each test."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from stream_app.dev.kafka import Broker
from stream_app.dev.process import StartError
from tests.brokers import any_kafka, any_redis


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """One real broker for the run. To kill, freeze or restart one, start a `LocalKafka` of your own."""
    terminal: Any = request.config.pluginmanager.get_plugin("terminalreporter")
    capture: Any = request.config.pluginmanager.get_plugin("capturemanager")

    def tell(line: str) -> None:
        with capture.global_and_fixture_disabled():
            terminal.write_line(line)

    try:
        with any_kafka(tell) as broker:
            yield broker
    except StartError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of one real Redis for the run: "redis://host:port/0"."""
    try:
        with any_redis() as url:
            yield url
    except StartError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def namespace() -> str:
    """A prefix for the topics, groups and Redis keys of one test, for example "t3f9a1c."."""
    return f"t{uuid.uuid4().hex[:6]}."
