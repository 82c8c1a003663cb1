"""A command whose Kafka goes away after the first contact: the command ends in bounded time, and says what to do."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from stream_app.client.commands import submit
from stream_app.config import load_settings
from stream_app.config.kafka_access import connection_of
from stream_app.dev.kafka import LocalKafka
from stream_app.domain.errors import BrokerUnavailable
from stream_app.kafka import producers
from stream_app.kafka.topics import create_topics
from tests.support.pace import BUSY

CONFIG = """
[kafka]
bootstrap = "{bootstrap}"
partitions = 1
replication = 1
broker_wait_s = 20
[workspaces.acme]
[destinations]
people = {{ workspace = "acme", webhooks_env = ["A"], callbacks = false }}
"""


@pytest.mark.slow
async def test_an_order_to_a_kafka_that_hangs_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producers, "_CONFIRM_WITHIN_S", 1.0)
    async with LocalKafka() as kafka:
        path = tmp_path / "stream_app.toml"
        path.write_text(CONFIG.format(bootstrap=kafka.bootstrap))
        settings = load_settings(path, {}, ())
        await create_topics(connection_of(settings), settings.topic_plan(), 30, lambda _: None)

        connect = producers.kafka_publisher

        class Hanging:
            """Stops Kafka when the publisher has connected to it."""

            def __init__(self, *args: Any) -> None:
                self.opened = connect(*args)

            async def __aenter__(self) -> Any:
                connected = await self.opened.__aenter__()
                kafka.freeze()
                return connected

            async def __aexit__(self, *error: Any) -> None:
                await self.opened.__aexit__(*error)

        monkeypatch.setattr(producers, "kafka_publisher", Hanging)
        try:
            async with asyncio.timeout(60 * BUSY):
                with pytest.raises(BrokerUnavailable, match="did not confirm the command within 1 s"):
                    await submit(settings, "pause", "acme", {}, "jane", "w", wait_s=5, say=print)
        finally:
            kafka.thaw()
