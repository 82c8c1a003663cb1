"""Sends commands to lanes, then waits for the answers."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, Final

import msgspec
from aiokafka import TopicPartition

from stream_app.clock import Clock
from stream_app.config import Settings, check_known
from stream_app.config.kafka_access import connection_of, kafka_ready
from stream_app.domain.commands import (
    MAX_TEXT_CHARACTERS,
    REPLAY_RELOAD,
    TO_ALL,
    Command,
    CommandAnswer,
    CommandKind,
    read_answer,
    read_arguments,
)
from stream_app.domain.model.errors import BrokerUnavailable, SettingsError
from stream_app.domain.model.outcome import scrub
from stream_app.domain.model.records import Record
from stream_app.kafka.producers import send_command
from stream_app.kafka.readers import Reader

Put = Callable[[Record], Awaitable[None]]

_json: Final = msgspec.json.Encoder()
QUEUED_TEXT: Final = (
    "no worker has answered yet: the command is applied when a worker runs, within 24 hours"
)
_PROGRAMS: Final[Mapping[str, str]] = {
    "suppress": "suppress add",
    "unsuppress": "suppress remove",
    "erase": "erase",
}


class SentCommand(msgspec.Struct, frozen=True):
    """A command on Kafka, and its answers by partition.

    An answer of None did not come in time; the command stays queued.

    Attributes:
        replay: The answers of the replay processes, which get reloads only.
    """

    command: Command
    answers: dict[int, CommandAnswer | None]
    replay: dict[int, CommandAnswer | None] = {}

    @property
    def received(self) -> list[CommandAnswer]:
        return [
            answer
            for answer in (*self.answers.values(), *self.replay.values())
            if answer is not None
        ]

    @property
    def is_queued(self) -> bool:
        """True if a partition's worker has not answered in time."""
        return None in self.answers.values()


async def submit(
    settings: Settings,
    kind: CommandKind,
    workspace: str,
    args: dict[str, Any],
    who: str,
    why: str,
    *,
    wait_s: float,
    say: Callable[[str], None],
    known: Sequence[str] = (),
) -> SentCommand:
    """Send one command, and wait for its answers.

    Texts that look like personal data, and those of `known`, are removed from `why`.

    Args:
        settings: The settings.
        kind: The kind of command.
        workspace: The workspace whose lane gets it; '' for the kinds of `TO_ALL`, which go to every
            partition.
        args: The arguments of the kind.
        who: Who sends it.
        why: The reason, for the audit.
        wait_s: The time for the answers, in seconds.
        say: Called with a line while this waits for Kafka.
        known: Personal data that `why` may repeat.

    Raises:
        SettingsError: The workspace is unknown, or the arguments are wrong.
        TopicsError, KafkaRefused, BrokerUnavailable: Kafka is not ready.
    """
    command = new_command(settings, f"c-{uuid.uuid4().hex}", kind, workspace, args, who, why, known)
    names = settings.names
    connection = connection_of(settings)
    await kafka_ready(settings, _PROGRAMS.get(kind, "lanes ORDER"), say)
    async with Reader(connection) as reader:
        ends = await reader.ends(
            [TopicPartition(names.audit, number) for number in _partitions(settings, command)],
        )
        await send_command(connection, _records(settings, command), "stream-app lanes log")
        return await _answered(reader, ends, command, wait_s)


Send = Callable[[Command], Awaitable[None]]
"""Sends a command, which is applied once although it is sent twice.

Raises BrokerUnavailable as `put_command`.
"""


def new_command(
    settings: Settings,
    command_id: str,
    kind: CommandKind,
    workspace: str,
    args: Mapping[str, Any],
    who: str,
    why: str,
    known: Sequence[str] = (),
) -> Command:
    """Return a command. The arguments are those of `submit`. Raises SettingsError as `submit`."""
    try:
        read_arguments(kind, args)
    except ValueError as error:
        raise SettingsError([str(error)]) from None
    if kind not in TO_ALL:
        check_known(settings, workspace=workspace)
    return Command(
        command_id,
        kind,
        workspace,
        Clock().now_ms(),
        who,
        scrub(why, MAX_TEXT_CHARACTERS, known),
        dict(args),
    )


def _partitions(settings: Settings, command: Command) -> Sequence[int]:
    """Return the workspace's home partition, or (kinds of `TO_ALL`) every partition."""
    return (
        range(settings.kafka.partitions)
        if command.kind in TO_ALL
        else [settings.home(command.workspace)]
    )


def _records(settings: Settings, command: Command) -> list[Record]:
    value = _json.encode(command)
    key = command.workspace.encode()
    return [
        Record(settings.names.commands, key, value, (), number)
        for number in _partitions(settings, command)
    ]


async def put_command(put: Put, records: Sequence[Record]) -> None:
    """Write the command of a form to Kafka.

    `put` returns when Kafka has a record; it gives up within seconds.

    Raises:
        BrokerUnavailable: Kafka did not confirm it. It may have arrived nevertheless.
    """
    for problem in await asyncio.gather(*map(put, records), return_exceptions=True):
        if isinstance(problem, BrokerUnavailable):
            raise BrokerUnavailable(
                "Kafka did not confirm the command. It may have arrived nevertheless: "
                "look at the audit, or send this form again: the command is carried out only once",
            ) from problem
        if problem is not None:
            raise problem


def command_sender(settings: Settings, put: Put) -> Send:
    """Return what sends commands in a process that runs on. Their answers are read elsewhere."""
    return lambda command: put_command(put, _records(settings, command))


def answers_in(records: Iterable[Any]) -> Iterator[tuple[int, CommandAnswer]]:
    """Yield the answers among records of the audit topic, with their partitions.

    What is none is passed over.
    """
    for record in records:
        answer = read_answer(record.value)
        if answer is not None:
            yield record.partition, answer


async def _answered(
    reader: Reader,
    starts: Mapping[TopicPartition, int],
    command: Command,
    wait_s: float,
) -> SentCommand:
    """Return the command with the answers that arrive in time."""
    workers: dict[int, CommandAnswer | None] = {place.partition: None for place in starts}
    replay = dict(workers) if command.kind == "reload" else {}
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            async for polled in reader.follow(starts):
                for number, answer in answers_in(chain.from_iterable(polled.values())):
                    answers = replay if answer.kind == REPLAY_RELOAD else workers
                    if answer.id == command.id and answers[number] is None:
                        answers[number] = answer
                if None not in (*workers.values(), *replay.values()):
                    break
    return SentCommand(command, workers, replay)
