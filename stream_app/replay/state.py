"""State that replay processes share in a compacted topic: the offset of each epoch, and the pause.

`ReplayState` keeps it. With `turns`, it follows the published views of the lanes, too.

    dlq/<partition>/<epoch>  ->  the group's offset on leads.dlq in that rewind epoch:
                                 domain.dead_letter.replay.Came, as JSON
    pause                    ->  {"by": ..., "why": ..., "at_ms": ...}; `replay resume` deletes it
    sent/<record id>         ->  a dead letter that an operator sent back or gave up
                                 (domain/dead_letter/replay.py)
    command/<id>             ->  an operator's command to replay (domain/dead_letter/orders.py)
    replay/<id>              ->  the progress of that replay (domain/dead_letter/orders.py)

Each epoch has its own row, so that a process frozen in an old epoch cannot overwrite a newer one.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from itertools import chain
from typing import Any, Final

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of
from stream_app.domain.commands import MAX_TEXT_CHARACTERS, CommandAnswer
from stream_app.domain.dead_letter.orders import (
    COMMAND,
    PAUSE,
    PROGRESS,
    ReplayOrders,
    ReplayPause,
    read_pause,
)
from stream_app.domain.dead_letter.replay import Begin, Came, Turns, begin, read_epoch
from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.domain.model.outcome import scrub
from stream_app.domain.model.records import Record
from stream_app.domain.model.topics import MAX_CARRIED_BYTES, TopicNames
from stream_app.domain.model.untrusted import UNREADABLE
from stream_app.domain.views.lane import LaneView
from stream_app.kafka.connection import LOOK, KafkaConnection, open_admin
from stream_app.kafka.groups import committed_offsets
from stream_app.kafka.producers import Publish, kafka_publisher
from stream_app.kafka.readers import Reader
from stream_app.ops import logs
from stream_app.ops.logs import Throttled
from stream_app.tasks import cancel

log = logs.get("replay")

_CURRENT_WITHIN_S: Final = 30.0
_RECORD_EVERY_S: Final = 1.0
_LAST_WITHIN_S: Final = 3.0


class ReplayState:
    """The shared state, as this process has read it so far. An async context manager.

    Attributes:
        pause: The pause of all replays; None if they are not paused.
        moving: Cleared while they are paused.
        orders: The replays that operators have ordered.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        names: TopicNames,
        partitions: int,
        publish: Publish,
        turns: Turns | None = None,
    ) -> None:
        self.pause: ReplayPause | None = None
        self.moving = asyncio.Event()
        self.moving.set()
        self.orders = ReplayOrders()
        self._connection = connection
        self._names = names
        self._publish = publish
        self._partitions = [
            TopicPartition(names.replay_state, number) for number in range(partitions)
        ]
        self._turns = turns
        self._lanes = [
            TopicPartition(names.lanes, number) for number in range(partitions) if turns is not None
        ]
        self._came: dict[int, dict[int, Came]] = defaultdict(dict)
        self._epochs: dict[int, int] = {}
        self._reader = Reader(connection, _CURRENT_WITHIN_S, fetch_max_wait_ms=500)
        self._updated = asyncio.Condition()

    async def __aenter__(self) -> ReplayState:
        async with AsyncExitStack() as opened:
            self._admin: Any = await opened.enter_async_context(
                open_admin(self._connection, _CURRENT_WITHIN_S),
            )
            await opened.enter_async_context(self._reader)
            read = [*self._partitions, *self._lanes]
            self._following = asyncio.create_task(self._follow(await self._reader.begins(read)))
            opened.push_async_callback(cancel, [self._following])
            # Before the first record moves, because an operator may have paused all replays, and
            # the turns of the leads follow from the views of their lanes.
            await self._current(read)
            recording = asyncio.create_task(self._record_on())
            opened.push_async_callback(cancel, [recording])
            self._opened = opened.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened.aclose()

    async def begin(self, partition: int) -> Begin:
        """Return where to start in a newly assigned partition. A new epoch is recorded first."""
        # The rows are read before the group's offset. In the other order, a row that the process
        # before this one writes in between would be ahead of the offset, which looks like a rewind.
        await self._current([self._partitions[partition]])
        committed = (await self.committed()).get(partition)
        how = begin(self._came[partition], committed)
        if how.record is not None:
            await self._record(partition, how.epoch, how.record)
        # After a new epoch is recorded, because from here on `record` writes offsets of this epoch.
        self._epochs[partition] = how.epoch
        return how

    async def record(self) -> None:
        """Record the group's offsets in this process's partitions.

        They are asked of Kafka, because Faust may be wrong about its commits, and a restart would
        then look like a rewind.
        """
        for partition, offset in (await self.committed()).items():
            # Read after each await: another process may have begun a newer epoch meanwhile. Then
            # this one records no more.
            epoch = self._epochs.get(partition)
            epochs = self._came[partition]
            if epoch is None or epoch < max(epochs, default=0):
                continue
            came = epochs.get(epoch, Came(0))
            if offset > came.offset:
                await self._record(partition, epoch, msgspec.structs.replace(came, offset=offset))

    async def record_last(self) -> None:
        """Record once more at the end.

        If Kafka does not answer, the process ends without that, as after `kill -9`.
        """
        try:
            async with asyncio.timeout(_LAST_WITHIN_S):
                await self.record()
        except (KafkaError, OSError, TimeoutError) as error:
            log.warning("checkpoint_not_saved", because=repr(error))

    async def current(self) -> None:
        """Wait until `orders` has everything that is on Kafka now. Raises BrokerUnavailable."""
        await self._current(self._partitions[:1])

    async def set_pause(self, pause: ReplayPause | None, audited: CommandAnswer) -> None:
        """Pause all replays, or resume them (None). `audited` is what the audit says about it."""
        value = msgspec.json.encode(pause) if pause else None
        await self._write(Record(self._names.replay_state, PAUSE, value, (), 0))
        # The audit is written after the pause, so that what it says was done. If the command fails
        # in between, its operator repeats it.
        await self._write(Record(self._names.audit, b"", msgspec.json.encode(audited), (), 0))

    async def committed(self) -> dict[int, int]:
        """Return the group's committed offsets on leads.dlq; partitions without one are absent."""
        partitions = [TopicPartition(self._names.dlq, tp.partition) for tp in self._partitions]
        committed = await committed_offsets(self._admin, self._names.replay_app, partitions)
        return {tp.partition: offset for tp, offset in committed.items()}

    async def _record_on(self) -> None:
        warn = Throttled(lambda why: log.warning("checkpoint_not_saved", because=why))
        while True:
            await asyncio.sleep(_RECORD_EVERY_S)
            try:
                await self.record()
            # A late checkpoint can do no more than hide a small rewind.
            except (KafkaError, OSError) as error:
                warn(repr(error))
            else:
                warn.reset()

    async def _record(self, partition: int, epoch: int, came: Came) -> None:
        self._came[partition][epoch] = came
        key = f"dlq/{partition}/{epoch}".encode()
        await self._write(
            Record(self._names.replay_state, key, msgspec.json.encode(came), (), partition),
        )

    async def _write(self, record: Record) -> None:
        await (await self._publish(record))

    async def _current(self, partitions: list[TopicPartition]) -> None:
        """Wait until these partitions are read to their current end. Raises BrokerUnavailable."""
        try:
            async with asyncio.timeout(_CURRENT_WITHIN_S):
                ends = await self._reader.ends(partitions)
                # The lock is held from the comparison to the wait, so that `_follow` cannot notify
                # in between.
                async with self._updated:
                    while any([await self._reader.position(tp) < ends[tp] for tp in partitions]):
                        if self._following.done():
                            self._following.result()
                        await self._updated.wait()
        except (BrokerUnavailable, TimeoutError) as error:
            why = str(error) or f"no answer within {_CURRENT_WITHIN_S:.0f} s. {LOOK}"
            raise BrokerUnavailable(
                f"{self._names.replay_state} could not be read to its end: {why}",
            ) from error

    async def _follow(self, starts: Mapping[TopicPartition, int]) -> None:
        try:
            async for polled in self._reader.follow(starts, wait_ms=200):
                for record in chain.from_iterable(polled.values()):
                    if record.topic == self._names.lanes:
                        self._apply_view(record.value)
                    else:
                        self._apply(record.key, record.value)
                async with self._updated:
                    self._updated.notify_all()
        finally:
            # The tasks that wait see that this one has ended, and raise its error.
            async with self._updated:
                self._updated.notify_all()

    def _apply_view(self, value: bytes | None) -> None:
        if self._turns is not None and value:
            with suppress(*UNREADABLE):  # Then its leads ask the worker, as without a view.
                self._turns.apply(msgspec.json.decode(value, type=LaneView))

    def _apply(self, key: bytes, value: bytes | None) -> None:
        if key == PAUSE:
            self.pause = read_pause(value)
            if self.pause:
                self.moving.clear()
            else:
                self.moving.set()
            return
        if key.startswith((COMMAND, PROGRESS)):
            self.orders.apply(key, value)
            return
        if (epoch := read_epoch(key, value)) is not None:
            self._came[epoch.partition][epoch.number] = epoch.came


async def set_replay_pause(
    settings: Settings,
    who: str,
    why: str,
    at_ms: int,
    *,
    paused: bool,
) -> ReplayPause | None:
    """Pause or resume all replays, and write that to the audit.

    What looks like personal data is removed from `why`, which is logged and audited. `at_ms` is
    now, epoch ms.

    Returns:
        The pause before; None if replays were not paused.

    Raises:
        BrokerUnavailable: Kafka does not answer.
    """
    connection = connection_of(settings)
    topics = settings.names
    async with (
        kafka_publisher(connection, MAX_CARRIED_BYTES) as publish,
        ReplayState(connection, topics, settings.kafka.partitions, publish) as state,
    ):
        before = state.pause
        audited = CommandAnswer(
            f"c-{uuid.uuid4().hex}",
            True,
            at_ms,
            0,
            "replay_pause" if paused else "replay_resume",
            who=who,
            why=scrub(why, MAX_TEXT_CHARACTERS),
            asked_at_ms=at_ms,
            text=_outcome(before, paused=paused),
        )
        await state.set_pause(ReplayPause(who, audited.why, at_ms) if paused else None, audited)
        return before


def _outcome(before: ReplayPause | None, *, paused: bool) -> str:
    """Return what pausing or resuming all replays has changed, in words."""
    since = f"paused by {before.who} before" if before else "not paused before"
    return f"all replays are {'paused' if paused else 'resumed'}; they were {since}"
