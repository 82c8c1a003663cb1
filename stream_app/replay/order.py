"""Order replays, and follow them. The replay process carries them out (replay/runner.py)."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from itertools import chain
from typing import Final, Literal

from aiokafka import TopicPartition

from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of, topic_reader
from stream_app.domain.dead_letter.orders import (
    ReplayCommand,
    ReplayOrders,
    ReplayPlan,
    ReplayProgress,
    command_row,
    read_progress,
)
from stream_app.domain.errors import SettingsError
from stream_app.domain.record import Record
from stream_app.kafka.producers import send_command
from stream_app.kafka.readers import Reader
from stream_app.ops.clock import SystemClock

_MOST_BYTES: Final = 900_000


def start_command(plan: ReplayPlan, who: str, why: str, *, replay: str | None = None) -> ReplayCommand:
    """Return the command that starts a replay. The same id (`replay`) twice starts one; None: a new id.

    Raises:
        SettingsError: It is too large for Kafka.
    """
    replay = replay or f"r-{uuid.uuid4().hex[:12]}"
    command = ReplayCommand(replay, "start", replay, SystemClock().now_ms(), who, why, plan)
    if len(command_row(command)[1]) > _MOST_BYTES:
        raise SettingsError([f"the filter is larger than {_MOST_BYTES:,} bytes: name fewer leads"])
    return command


def change_command(kind: Literal["stop", "resume"], replay: str, who: str, why: str) -> ReplayCommand:
    """Return a command that stops or resumes a replay."""
    return ReplayCommand(f"c-{uuid.uuid4().hex}", kind, replay, SystemClock().now_ms(), who, why)


def command_record(settings: Settings, command: ReplayCommand) -> Record:
    """Return the record of a command."""
    return Record(settings.names.replay_state, *command_row(command), (), 0)


async def submit(settings: Settings, command: ReplayCommand) -> None:
    """Write a command to Kafka. Raises BrokerUnavailable."""
    await send_command(connection_of(settings), [command_record(settings, command)], "stream-app replay list")


async def submit_and_follow(settings: Settings, command: ReplayCommand) -> AsyncGenerator[ReplayProgress | None, None]:
    """Write a command to Kafka, and yield each progress of its replay from then on. It does not end by itself.

    Yields:
        The progress; None every half a second while none comes.

    Raises:
        BrokerUnavailable: Kafka does not answer.
    """
    place = TopicPartition(settings.names.replay_state, 0)
    async with Reader(connection_of(settings)) as reader:
        starts = await reader.ends([place])
        await submit(settings, command)
        async for got in reader.follow(starts):
            found = [read_progress(record.key, record.value) for record in chain.from_iterable(got.values())]
            own = [each for each in found if each is not None and each.id == command.replay]
            for each in own:
                yield each
            if not own:
                yield None


async def ordered_replays(settings: Settings) -> ReplayOrders:
    """Return all replays that operators ordered. Raises BrokerUnavailable."""
    orders = ReplayOrders()
    topic = settings.names.replay_state
    async with topic_reader(settings) as reader:
        ranges = {0: (await reader.bounds(topic))[0]}
        async for records in reader.read(topic, ranges):
            for record in records:
                orders.apply(record.key, record.value)
    return orders
