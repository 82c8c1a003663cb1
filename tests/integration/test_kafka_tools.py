"""Kafka's own tools, from the Kafka that pip installs."""

import asyncio
import os
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from zipfile import ZipFile

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from stream_app.dev.kafka import Broker
from stream_app.dev.kafka_tools import TOOLS, TOOLS_JARS, class_path, main
from tests.support.kafka import admin, create_topics, publish
from tests.support.pace import BUSY

PAGE = Path(__file__).parents[2] / "docs" / "dead-letters.md"


def test_an_unknown_tool_is_refused_with_a_list_of_the_tools(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["kafka-nothing"]) == 2
    assert "kafka-consumer-groups" in capfd.readouterr().err


def test_the_class_of_each_tool_is_in_kafkas_jars() -> None:
    names: set[str] = set()
    for jar in class_path(TOOLS_JARS, lambda _: None).split(os.pathsep):
        with ZipFile(jar) as archive:
            names.update(archive.namelist())
    assert {f"{name.replace('.', '/')}.class" for name in TOOLS.values()} <= names


def documented(kafka: Broker, namespace: str) -> list[str]:
    """Return the page's command for this broker and namespace."""
    (text,) = re.findall(r"^    (python -m stream_app\.dev\.kafka_tools .*\\\n.*)$", PAGE.read_text(), re.M)
    words = shlex.split(text.replace("\\\n", " "))
    ours = {
        "python": sys.executable,
        "127.0.0.1:9092": kafka.bootstrap,
        "stream-app-replay": f"{namespace}stream-app-replay",
        "leads.dlq": f"{namespace}leads.dlq",
    }
    assert ours.keys() <= set(words)
    return [ours.get(word, word) for word in words]


async def test_the_documented_reset_moves_the_replay_group(kafka: Broker, namespace: str) -> None:
    topic, group = f"{namespace}leads.dlq", f"{namespace}stream-app-replay"
    place = TopicPartition(topic, 0)
    await create_topics(kafka.bootstrap, topic)
    await publish(kafka.bootstrap, topic, [b"a record"])
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id=group, enable_auto_commit=False)
    async with consumer:
        consumer.assign([place])
        await consumer.commit({place: 1})
    run = partial(subprocess.run, capture_output=True, text=True, timeout=100 * BUSY, check=False)
    ran = await asyncio.to_thread(run, documented(kafka, namespace))
    assert ran.returncode == 0, ran.stderr
    async with admin(kafka.bootstrap) as client:
        assert (await client.list_consumer_group_offsets(group))[place].offset == 0, ran.stdout
