"""`stream-app topics --grow` on a real Kafka: what it refuses, and what it says to write."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream_app.cli.main import main
from stream_app.config import Settings, load_settings
from stream_app.config.kafka_access import connection_of
from stream_app.dev.kafka import Broker
from stream_app.domain.lane_messages import LaneView
from stream_app.domain.record import Record
from stream_app.kafka.producers import kafka_publisher
from stream_app.kafka.topics import create_topics

pytestmark = pytest.mark.timeout(120)
TABLES = """
[workspaces.w1]
[workspaces.beta]
partition = {pin}
[destinations.people]
workspace = "w1"
webhooks_env = ["HOOK"]
callbacks = false
[destinations.firms]
workspace = "beta"
webhooks_env = ["HOOK_2"]
callbacks = false
"""


class System:
    """A system with two partitions, and its configuration file."""

    def __init__(self, kafka: Broker, namespace: str, path: Path) -> None:
        self._kafka = f'[kafka]\nbootstrap = "{kafka.bootstrap}"\nnamespace = "{namespace}"\nreplication = 1\n'
        self.path = path

    def configure(self, keys: str, pin: int = 1) -> Settings:
        self.path.write_text(self._kafka + keys + TABLES.format(pin=pin))
        return load_settings(self.path, {}, ())

    def run(self, *words: str) -> int:
        return main(["topics", *words, "--config", str(self.path)])


@pytest.fixture
async def system(kafka: Broker, namespace: str, tmp_path: Path) -> System:
    found = System(kafka, namespace, tmp_path / "stream_app.toml")
    settings = found.configure("partitions = 2\n")
    await create_topics(connection_of(settings), settings.topic_plan(), 20.0, print)
    async with kafka_publisher(connection_of(settings), 2_000_000) as publisher:
        for name, home in settings.homes.items():
            view = LaneView(name, home, 1, "closed", "healthy", 100.0, 10.0)
            record = Record(settings.names.lanes, name.encode(), msgspec.json.encode(view), (), home)
            await (await publisher.publish(record))
    return found


def in_thread(system: System, *words: str) -> Any:
    return asyncio.to_thread(system.run, *words)


async def test_it_says_what_to_write_and_then_grows_once(system: System, capsys: pytest.CaptureFixture[str]) -> None:
    system.configure("partitions = 4\n")
    assert await in_thread(system) == 1
    said = capsys.readouterr().err
    assert "has 2 partitions, the config says 4; set kafka.partitions = 2, or add partitions with: stream-app" in said
    assert await in_thread(system, "--grow") == 2
    assert "kafka.hashed_partitions is not set: set it to 2, the number of partitions" in capsys.readouterr().err
    system.configure("partitions = 4\nhashed_partitions = 3\n")
    assert await in_thread(system, "--grow") == 2
    said = "kafka.hashed_partitions = 3: a topic has 2 partitions, and workspaces were hashed over no more: set it to 2"
    assert said in capsys.readouterr().err
    system.configure("partitions = 4\nhashed_partitions = 2\n")
    assert await in_thread(system, "--grow") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("0 created, ")
    assert await in_thread(system, "--grow", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["created"], report["grown"], report["problems"]) == ([], [], [])
    assert await in_thread(system) == 0
    system.configure("partitions = 4\n")  # w1 would have its home in partition 3
    assert await in_thread(system, "--grow") == 2
    assert "workspace w1 has its home in partition 1, the configuration says 3" in capsys.readouterr().err
    system.configure("partitions = 2\n")
    assert await in_thread(system, "--grow") == 1
    assert (
        "set kafka.partitions = 4 and kafka.hashed_partitions = the number that the system" in capsys.readouterr().err
    )


async def test_it_is_refused_if_a_home_would_change(system: System, capsys: pytest.CaptureFixture[str]) -> None:
    system.configure("partitions = 4\nhashed_partitions = 2\n", pin=3)
    assert await in_thread(system, "--grow") == 2
    said = capsys.readouterr().err
    assert "workspace beta has its home in partition 1, the configuration says 3" in said
    assert "homes never change: set kafka.hashed_partitions to the number of partitions that the system began" in said
    system.configure("partitions = 2\n", pin=0)
    assert await in_thread(system, "--grow") == 2, "also if nothing is to be added"


def test_strimzi_adds_partitions_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.toml").write_text("[kafka]\npartitions = 4\nhashed_partitions = 2\n")
    words = ["topics", "--strimzi", "my-cluster", "--config", str(tmp_path / "a.toml")]
    assert main([*words, "--grow"]) == 2
    assert "--grow and --strimzi do not go together" in capsys.readouterr().err
    assert main(words) == 0
    topics = [each["spec"] for each in json.loads(capsys.readouterr().out)["items"] if each["kind"] == "KafkaTopic"]
    assert {each["partitions"] for each in topics} == {4}
