"""Which answers a command waits for: those to it, one a partition, and no longer than told."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiokafka import TopicPartition

from stream_app.client.lanes import commands
from stream_app.client.lanes.commands import SentCommand, submit
from stream_app.config import Kafka, Settings
from stream_app.domain.commands import REPLAY_RELOAD, CommandAnswer, CommandKind
from stream_app.domain.model.errors import SettingsError
from stream_app.domain.model.records import ConsumedRecord, Record
from stream_app.domain.plan import Workspace

SETTINGS = Settings(
    kafka=Kafka(partitions=3, replication=1),
    workspaces={"acme": Workspace("acme", partition=2)},
)
AUDIT = SETTINGS.names.audit


class Audit:
    """The audit topic: each answer (partition, kind, whether it is to this command) in turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: tuple[int, str, bool]) -> None:
        self._answers = answers
        self.sent: list[Record] = []
        self.read: list[tuple[int, str, bool]] = []
        self.asked: list[TopicPartition] = []
        monkeypatch.setattr(commands, "Reader", lambda _: self)
        monkeypatch.setattr(commands, "send_command", self._send)
        monkeypatch.setattr(commands, "kafka_ready", self._ready)

    async def __aenter__(self) -> "Audit":
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def _ready(self, *_: object) -> None: ...

    async def _send(self, _: object, records: list[Record], program: str) -> None:
        assert self.asked, "answers that come at once are behind the ends that were read before"
        self.sent = records

    async def ends(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        self.asked = places
        return dict.fromkeys(places, 40)

    async def follow(self, starts: Any) -> AsyncIterator[dict[TopicPartition, list[Any]]]:
        command_id = msgspec.json.decode(self.sent[0].value or b"")["id"]
        for number, kind, is_ours in self._answers:
            self.read.append((number, kind, is_ours))
            at_ms = len(self.read)
            known_by = command_id if is_ours else "c-other"
            answer = CommandAnswer(known_by, True, at_ms, number, kind)
            value = msgspec.json.encode(answer)
            record = ConsumedRecord(AUDIT, number, 40 + at_ms, b"", value)
            yield {TopicPartition(AUDIT, number): [record]}
        await asyncio.sleep(60)


async def sent(kind: CommandKind, workspace: str = "", wait_s: float = 20) -> SentCommand:
    args = {"people": ["A" * 22]} if kind == "suppress" else {}
    return await submit(
        SETTINGS,
        kind,
        workspace,
        args,
        "jane",
        "why",
        wait_s=wait_s,
        say=lambda _: None,
    )


def times(answers: dict[int, CommandAnswer | None]) -> dict[int, int | None]:
    return {number: None if answer is None else answer.at_ms for number, answer in answers.items()}


async def test_the_first_answer_of_each_partition_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    audit = Audit(
        monkeypatch,
        (1, "suppress", False),
        (1, "suppress", True),
        (1, "suppress", True),
        (0, "suppress", True),
        (2, "suppress", True),
        (0, "suppress", True),
    )
    went = await sent("suppress")
    assert times(went.answers) == {0: 4, 1: 2, 2: 5}
    assert len(audit.read) == 5, "when all have answered nothing more is awaited"
    assert not went.is_queued
    assert [(record.topic, record.partition) for record in audit.sent] == [
        (SETTINGS.names.commands, number) for number in range(3)
    ]
    assert sorted(answer.at_ms for answer in went.received) == [2, 4, 5]


async def test_a_command_to_a_lane_waits_for_its_partition_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    audit = Audit(monkeypatch)
    went = await sent("resume", "acme", wait_s=0.05)
    assert went.answers == {2: None}
    assert went.is_queued
    assert went.received == []
    assert audit.asked == [TopicPartition(AUDIT, 2)]
    (record,) = audit.sent
    assert record.key == b"acme"
    assert record.partition == 2
    with pytest.raises(SettingsError, match="acmee"):
        await sent("resume", "acmee")


async def test_a_reload_waits_for_the_replay_processes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = [(number, "reload", True) for number in range(3)]
    replay = [(number, REPLAY_RELOAD, True) for number in range(3)]
    Audit(monkeypatch, *workers, *replay)
    went = await sent("reload")
    assert times(went.answers) == {0: 1, 1: 2, 2: 3}
    assert times(went.replay) == {0: 4, 1: 5, 2: 6}
    assert len(went.received) == 6
