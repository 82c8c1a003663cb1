"""Which answers a command waits for: those to it, one a partition, and no longer than told."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiokafka import TopicPartition

from stream_app.client.lanes import commands
from stream_app.client.lanes.commands import SentCommand, command_sender, new_command, submit
from stream_app.clock import Clock
from stream_app.config import Kafka, Settings
from stream_app.domain.commands import (
    REPLAY_RELOAD,
    TO_ALL,
    Command,
    CommandAnswer,
    CommandKind,
)
from stream_app.domain.model.errors import BrokerUnavailable, SettingsError
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


@pytest.mark.parametrize(
    ("kind", "args", "program"),
    [
        ("suppress", {"people": ["A" * 22]}, "suppress add"),
        ("unsuppress", {"people": ["A" * 22]}, "suppress remove"),
        ("erase", {"lead_id": "crm-1", "destinations": [], "people": []}, "erase"),
        ("resume", {}, "lanes ORDER"),
        ("reload", {}, "lanes ORDER"),
    ],
)
async def test_each_command_asks_for_the_rights_of_its_program(
    monkeypatch: pytest.MonkeyPatch,
    kind: CommandKind,
    args: dict[str, Any],
    program: str,
) -> None:
    audit = Audit(monkeypatch)
    asked: list[tuple[str, str]] = []

    async def ready(settings: Settings, program: str, say: Any) -> None:
        assert settings is SETTINGS
        say("Kafka is away")
        asked.append((program, told[-1]))

    async def send(connection: Any, records: list[Record], program: str) -> None:
        assert connection.bootstrap == SETTINGS.kafka.bootstrap
        audit.sent = records
        asked.append((program, ""))

    monkeypatch.setattr(commands, "kafka_ready", ready)
    monkeypatch.setattr(commands, "send_command", send)
    told: list[str] = []
    before_ms = Clock().now_ms()
    went = await submit(
        SETTINGS,
        kind,
        "" if kind in TO_ALL else "acme",
        args,
        "jane",
        "asked by ada@example.com of Ada Lovelace",
        wait_s=0.01,
        say=told.append,
        known=("Ada Lovelace",),
    )
    assert asked == [(program, "Kafka is away"), ("stream-app lanes log", "")]
    command = went.command
    assert command.kind == kind
    assert command.workspace == ("" if kind in TO_ALL else "acme")
    assert command.who == "jane"
    assert command.args == args
    assert command.args is not args
    assert "ada@" not in command.why
    assert "Lovelace" not in command.why
    assert command.why.startswith("asked by ")
    assert command.id.startswith("c-")
    assert len(command.id) == 34
    assert before_ms <= command.at_ms <= Clock().now_ms()
    assert [msgspec.json.decode(record.value or b"", type=Command) for record in audit.sent] == [
        command,
    ] * len(audit.sent)
    homes = list(range(3)) if kind in TO_ALL else [2]
    key = command.workspace.encode()
    assert [(record.key, record.headers, record.partition) for record in audit.sent] == [
        (key, (), home) for home in homes
    ]


def test_arguments_that_are_wrong_are_told() -> None:
    with pytest.raises(SettingsError, match="people"):
        new_command(SETTINGS, "c-1", "suppress", "", {"persons": []}, "jane", "why")
    with pytest.raises(SettingsError, match="acmee"):
        new_command(SETTINGS, "c-1", "resume", "acmee", {}, "jane", "why")


async def test_a_form_of_the_board_sends_one_record_for_each_partition() -> None:
    put: list[Record] = []
    problems: list[Exception] = []

    async def keep(record: Record) -> None:
        put.append(record)
        if problems:
            raise problems.pop()

    command = new_command(SETTINGS, "c-1", "reload", "", {}, "jane", "why")
    send = command_sender(SETTINGS, keep)
    await send(command)
    value = msgspec.json.encode(command)
    assert put == [Record(SETTINGS.names.commands, b"", value, (), number) for number in range(3)]
    problems.append(BrokerUnavailable("away"))
    with pytest.raises(BrokerUnavailable) as error:
        await send(command)
    assert str(error.value) == (
        "Kafka did not confirm the command. It may have arrived nevertheless: look at the audit, "
        "or send this form again: the command is carried out only once"
    )
    assert len(put) == 6, "a partition does not wait for another one"
    problems.append(KeyError("a bug"))
    with pytest.raises(KeyError, match="a bug"):
        await send(command)
