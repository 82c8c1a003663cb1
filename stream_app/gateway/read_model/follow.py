"""Keeps the read model up with Kafka: reads in no group, committed records only, and writes down how far it came.

It never stops the gateway: what is wrong is said in `standing`, and tried again. The file is made anew when it cannot
be what these topics say: a log that ends before where it was read, or another record where the last one was.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from stream_app.domain.errors import KafkaRefused, StreamAppError, UnreadableBatch
from stream_app.gateway.read_model.project import Consumed
from stream_app.gateway.read_model.store import Log, Position, ReadModel, Sources, discard, mark
from stream_app.kafka.access import refusal_or_silence
from stream_app.kafka.closing import stop_consumer
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.consumer import Consumer
from stream_app.ops.clock import SystemClock
from stream_app.ops.logs import Logger, Throttled

_MOST_RECORDS: Final = 5_000
_FETCH_BYTES: Final = 1 * 2**20  # of one partition, and
_FETCH_ALL_BYTES: Final = 16 * 2**20  # of all of them: what is read ahead in memory
_LOOK_EVERY_S: Final = 1.0
_ANSWER_WITHIN_S: Final = 10.0
_AGAIN_S: Final = 2.0

T = TypeVar("T")


class ProjectionLag(msgspec.Struct, frozen=True):
    """How far the model is. `as_of_ms`: all that was on Kafka then is in it (None: never yet). `lag`: records that are
    still to be read, at most. `trouble`: why it does not go on, in words.
    """

    as_of_ms: int | None = None
    lag: int = 0
    trouble: str = ""


class _Anew(Exception):
    """The file does not belong to what is on Kafka; the text says why."""


class Projection:
    """`run` is the task that keeps the model; `standing` is how far it is."""

    def __init__(self, connection: KafkaConnection, sources: Sources, path: Path, log: Logger) -> None:
        self.standing = ProjectionLag(trouble="has not begun to read Kafka yet")
        self._connection = connection
        self._sources = sources
        self._path = path
        self._log = log
        self._say = Throttled(lambda trouble: self._log.warning("projection_stalled", because=trouble))
        self._clock = SystemClock()
        self._logs = [TopicPartition(topic, number) for topic in sources.topics for number in range(sources.partitions)]

    async def run(self) -> None:
        """Until cancelled."""
        with ThreadPoolExecutor(1, "read-model") as thread:
            while True:
                trouble = await self._keep_up(thread)
                self.standing = msgspec.structs.replace(self.standing, trouble=trouble)
                self._say(trouble)
                await asyncio.sleep(_AGAIN_S)

    async def _keep_up(self, thread: ThreadPoolExecutor) -> str:
        """Read until something is wrong, and say what."""

        async def write(call: Callable[[], T]) -> T:
            return await asyncio.get_running_loop().run_in_executor(thread, call)

        model: ReadModel | None = None
        try:
            model = await write(partial(ReadModel, self._path, self._sources))
            while True:
                try:
                    await self._follow(model, write)
                except _Anew as why:
                    self._log.warning("projection_rebuilt", because=str(why))
                    await write(model.wipe)
                    self.standing = ProjectionLag()
        except (KafkaError, TimeoutError) as error:
            return await self._silence(error)
        except StreamAppError as error:
            return str(error)
        except sqlite3.OperationalError as error:
            return f"{self._path}: cannot be written: {error}"
        except sqlite3.DatabaseError as error:
            discard(self._path)
            return f"{self._path}: is made anew: {error}"
        except Exception as error:  # noqa: BLE001 - a bug in here must not end the gateway, and is said
            return f"a bug in the read model: {error!r}"
        finally:
            if model is not None:
                thread.submit(model.close)  # after what is being written

    async def _silence(self, error: Exception) -> str:
        """Why Kafka gives nothing: it refuses us, or does not answer."""
        try:
            await refusal_or_silence(self._connection.settings())
        except KafkaRefused as refused:
            return str(refused)
        return f"Kafka at {self._connection.bootstrap} does not answer: {error!r}"

    async def _follow(self, model: ReadModel, write: Callable[..., Any]) -> None:
        consumer = Consumer(
            **self._connection.settings(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            fetch_max_bytes=_FETCH_ALL_BYTES,
            max_partition_fetch_bytes=_FETCH_BYTES,
        )
        try:
            await consumer.start()
            reading = _Reading(consumer, self._logs, await write(model.positions), await write(model.as_of_ms))
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                await reading.begin(self._clock.now_ms())
            looked_s = time.monotonic()
            while True:
                batch, moved = await reading.more()
                if moved:
                    await write(partial(model.apply, batch, moved, reading.as_of_ms))
                reading.done(moved)
                self.standing = ProjectionLag(reading.as_of_ms, reading.lag, reading.trouble)
                if reading.trouble:
                    self._say(reading.trouble)
                if time.monotonic() - looked_s >= _LOOK_EVERY_S:
                    if not self._path.exists():
                        raise sqlite3.DatabaseError("it is not there any more")
                    async with asyncio.timeout(_ANSWER_WITHIN_S):  # aiokafka alone would ask for much longer
                        await reading.look(self._clock.now_ms())
                    await write(partial(model.sweep, self._clock.now_ms()))
                    looked_s = time.monotonic()
        finally:
            await stop_consumer(consumer)


class _Reading:
    """One consumer on all logs, from where the model is on."""

    def __init__(
        self, consumer: Any, logs: list[TopicPartition], positions: Mapping[Log, Position], as_of_ms: int | None
    ) -> None:
        self.as_of_ms = as_of_ms
        self._consumer = consumer
        self._logs = logs
        self._at: dict[Any, Position] = {log: positions[log] for log in logs if log in positions}
        self._unproven: set[Any] = set()
        self._ends: dict[Any, int] = {}
        self._asked_ms: int | None = None
        self._goal: dict[Any, int] = {}

    async def begin(self, now_ms: int) -> None:
        """Go to where each log was left, and there to the last record again: it must be the same."""
        begins = await self._consumer.beginning_offsets(self._logs)
        self._consumer.assign(self._logs)
        for log in self._logs:
            at = self._at.get(log)
            if at is not None and at.last >= begins[log]:
                self._unproven.add(log)
                self._consumer.seek(log, at.last)
            else:
                self._at[log] = at = Position(max(begins[log], at.next if at else 0))
                self._consumer.seek(log, at.next)
        await self.look(now_ms)

    async def look(self, now_ms: int) -> None:
        """Ask where the logs end."""
        self._ends, before = await self._consumer.end_offsets(self._logs), self._ends
        for log, end in self._ends.items():
            reached = max(self._at[log].next, before.get(log, 0))
            if end < reached:
                raise _Anew(f"{log.topic}/{log.partition} was at {reached} and ends at {end}: it was created anew")
        if not self._goal:
            self._asked_ms, self._goal = now_ms, dict(self._ends)

    async def more(self) -> tuple[dict[str, list[Consumed]], dict[Any, Position]]:
        """The next records by topic, and how far the logs come with them."""
        got: Mapping[Any, list[Any]] = {}
        with suppress(UnreadableBatch):  # the other partitions go on
            got = await self._consumer.getmany(timeout_ms=200, max_records=_MOST_RECORDS)
        batch: dict[str, list[Consumed]] = {}
        moved: dict[Any, Position] = {}
        for log, records in got.items():
            at = self._at[log]
            if records and log in self._unproven:
                self._prove(log, at, records)
            batch.setdefault(log.topic, []).extend(records)
            if records:
                last = records[-1]
                moved[log] = Position(at.next, last.offset, mark(last))
        for log in self._logs:
            at = moved.get(log, self._at[log])
            position = await self._consumer.position(log)
            if position > at.next:
                moved[log] = msgspec.structs.replace(at, next=position)
        return batch, moved

    def done(self, moved: Mapping[Any, Position]) -> None:
        """The model has come so far."""
        self._at.update(moved)
        if self._goal and all(self._at[log].next >= end for log, end in self._goal.items()):
            self.as_of_ms, self._goal = self._asked_ms, {}

    @property
    def lag(self) -> int:
        """Offsets to read; some of them hold no record."""
        return sum(max(0, end - self._at[log].next) for log, end in self._ends.items())

    @property
    def trouble(self) -> str:
        """What stands still although Kafka answers."""
        return "; ".join(map(str, self._consumer.unreadable.values()))

    def _prove(self, log: Any, at: Position, records: list[Any]) -> None:
        """Take the record away that was read before. It may be gone (compacted), but none other may be in its place."""
        self._unproven.discard(log)
        if records[0].offset == at.last and mark(records.pop(0)) != at.mark:
            raise _Anew(f"{log.topic}/{log.partition} has another record at {at.last}: it was created anew")
