"""Send a command to lanes, and wait for the answers."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, Final

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from stream_app.config import Settings, check_known
from stream_app.config.kafka_access import connection_of, kafka_ready
from stream_app.domain.delivery.outcome import scrub
from stream_app.domain.errors import BrokerUnavailable
from stream_app.domain.lane.command import MAX_TEXT, TO_ALL
from stream_app.domain.lane_messages import Command, CommandAnswer, CommandKind
from stream_app.domain.record import Record
from stream_app.domain.topics import MAX_INPUT_BYTES
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.producers import kafka_publisher
from stream_app.kafka.readers import Reader
from stream_app.ops.clock import SystemClock

_json: Final = msgspec.json.Encoder()
_answer: Final = msgspec.json.Decoder(CommandAnswer)
_CONFIRM_WITHIN_S: Final = 15.0
_PROGRAMS: Final[Mapping[str, str]] = {"suppress": "suppress add", "unsuppress": "suppress remove", "erase": "erase"}


class SentCommand(msgspec.Struct, frozen=True):
    """A command on Kafka, and its answers by partition. None: no answer in time; the command stays queued."""

    command: Command
    answers: dict[int, CommandAnswer | None]


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
    """Send one command, to the workspace's lane or (kinds of `TO_ALL`) to every partition.

    Args:
        settings: The configuration.
        kind: The command's kind.
        workspace: The workspace; '' for kinds of `TO_ALL`.
        args: The command's arguments.
        who: The operator's name, for the audit log.
        why: The reason, for the audit log. Text that looks like personal data is removed.
        wait_s: Seconds to wait for answers.
        say: Called with a line while waiting for Kafka.
        known: Texts to remove from `why`.

    Raises:
        SettingsError: The workspace is unknown.
        TopicsError, KafkaRefused, BrokerUnavailable: Kafka is not ready.
    """
    if kind not in TO_ALL:
        check_known(settings, workspace=workspace)
    command = Command(
        f"c-{uuid.uuid4().hex}", kind, workspace, SystemClock().now_ms(), who, scrub(why, MAX_TEXT, known), args
    )
    everywhere = range(settings.kafka.partitions)
    partitions = list(everywhere) if kind in TO_ALL else [settings.home(workspace)]
    names, connection = settings.names, connection_of(settings)
    await kafka_ready(settings, _PROGRAMS.get(kind, "lanes ORDER"), say)
    async with Reader(connection) as reader:
        ends = await reader.ends([TopicPartition(names.audit, number) for number in partitions])
        value = _json.encode(command)
        await _publish(connection, [Record(names.commands, workspace.encode(), value, (), each) for each in partitions])
        return SentCommand(command, await _answers(reader, ends, command.id, wait_s))


async def _answers(
    reader: Reader, starts: Mapping[TopicPartition, int], command: str, wait_s: float
) -> dict[int, CommandAnswer | None]:
    """Return the answers to a command that arrive in time, by partition."""
    found: dict[int, CommandAnswer | None] = {place.partition: None for place in starts}
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            async for got in reader.follow(starts):
                for record in chain.from_iterable(got.values()):
                    answer = _answer.decode(record.value)
                    if answer.id == command and found[record.partition] is None:
                        found[record.partition] = answer
                if None not in found.values():
                    break
    return found


async def _publish(connection: KafkaConnection, records: Sequence[Record]) -> None:
    try:
        async with kafka_publisher(connection, MAX_INPUT_BYTES) as publisher, asyncio.timeout(_CONFIRM_WITHIN_S):
            for sent in [await publisher.publish(record) for record in records]:
                await sent
    except (KafkaError, TimeoutError) as error:
        why = f": {error!r}" if isinstance(error, KafkaError) else f" within {_CONFIRM_WITHIN_S:.0f} s"
        raise BrokerUnavailable(
            f"Kafka at {connection.bootstrap} did not confirm the command{why}. It may have arrived nevertheless: "
            "check `stream-app lanes log`"
        ) from error
