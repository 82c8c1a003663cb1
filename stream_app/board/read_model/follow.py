"""Follows Kafka for the read model.

It reads committed records only, without a consumer group, and keeps its positions in the model.

It never stops the board: an error is reported in `lag` and retried. The file is rebuilt if it does
not belong to the topics on Kafka: a log ends before the saved position, or the last record read is
a different one.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from aiokafka import TopicPartition

from stream_app.board.read_model.store import (
    LogPosition,
    ReadModel,
    Sources,
    TopicLog,
    discard,
    mark,
)
from stream_app.clock import Clock
from stream_app.domain.model.errors import BrokerUnavailable, KafkaRefused, StreamAppError
from stream_app.domain.model.records import KafkaRecord
from stream_app.kafka.connection import KafkaConnection, refusal_or_silence
from stream_app.kafka.readers import Reader
from stream_app.ops.logs import Logger, Throttled

_MAX_RECORDS: Final = 5_000
_MAX_POLLS_AT_ONCE: Final = 4
"""The most polls that make up a batch. A record is written once for all its events in a batch."""
_FETCH_BYTES: Final = 1 * 2**20  # read ahead in memory, for one partition
_FETCH_ALL_BYTES: Final = 16 * 2**20  # for all partitions
_LOOK_EVERY_S: Final = 1.0
_ANSWER_WITHIN_S: Final = 10.0
_RETRY_AFTER_S: Final = 2.0
STALE_MS: Final = 30_000
"""A model that is older does not hold what is on Kafka now."""

T = TypeVar("T")


class ProjectionLag(msgspec.Struct, frozen=True):
    """How far the model is.

    Attributes:
        as_of_ms: The model holds everything that was on Kafka then. None: it has never been
            complete.
        lag: Records still to be read, at most.
        trouble: Why it does not progress, in words.
    """

    as_of_ms: int | None = None
    lag: int = 0
    trouble: str = ""

    def is_read(self, now_ms: int) -> bool:
        """True if the model holds what is on Kafka now: what it does not know does not exist."""
        return self.as_of_ms is not None and now_ms - self.as_of_ms <= STALE_MS


class _Replaced(Exception):
    """The file does not belong to the topics on Kafka; the text says why."""


class Projection:
    """Keeps the read model up to date. Run `run` as a task; `lag` says how far it is."""

    def __init__(
        self,
        connection: KafkaConnection,
        sources: Sources,
        path: Path,
        log: Logger,
    ) -> None:
        self.lag = ProjectionLag(trouble="has not started to read Kafka yet")
        self._connection = connection
        self._sources = sources
        self._path = path
        self._log = log
        self._say = Throttled(
            lambda trouble: self._log.warning("projection_stalled", because=trouble),
        )
        self._clock = Clock()
        self._logs = [
            TopicPartition(topic, number)
            for topic in sources.topics
            for number in range(sources.partitions)
        ]

    async def run(self) -> None:
        """Follow Kafka until cancelled."""
        with ThreadPoolExecutor(1, "read-model") as thread:
            while True:
                trouble = await self._keep_up(thread)
                self.lag = msgspec.structs.replace(self.lag, trouble=trouble)
                self._say(trouble)
                await asyncio.sleep(_RETRY_AFTER_S)

    async def _keep_up(self, thread: ThreadPoolExecutor) -> str:
        """Follow Kafka until an error occurs, and return its description."""

        async def write(call: Callable[[], T]) -> T:
            return await asyncio.get_running_loop().run_in_executor(thread, call)

        model: ReadModel | None = None
        try:
            model = await write(partial(ReadModel, self._path, self._sources))
            while True:
                try:
                    await self._follow(model, write)
                except _Replaced as why:
                    self._log.warning("projection_rebuilt", because=str(why))
                    await write(model.wipe)
                    self.lag = ProjectionLag()
        except (BrokerUnavailable, TimeoutError) as error:
            return await self._outage(error)
        except StreamAppError as error:
            return str(error)
        except sqlite3.OperationalError as error:
            return f"{self._path}: cannot be written: {error}"
        except sqlite3.DatabaseError as error:
            discard(self._path)
            return f"{self._path}: is rebuilt: {error}"
        except Exception as error:  # noqa: BLE001 - a bug here must not end the board; the text reports it
            return f"a bug in the read model: {error!r}"
        finally:
            if model is not None:
                thread.submit(model.close)  # after the write in progress

    async def _outage(self, error: Exception) -> str:
        """Describe why Kafka delivers nothing: it rejects the credentials, or does not respond."""
        try:
            await refusal_or_silence(self._connection)
        except KafkaRefused as refused:
            return str(refused)
        return str(error) or (
            f"Kafka at {self._connection.bootstrap} did not answer within {_ANSWER_WITHIN_S:.0f} s"
        )

    async def _follow(self, model: ReadModel, write: Callable[..., Any]) -> None:
        async with Reader(
            self._connection,
            auto_offset_reset="none",
            fetch_max_wait_ms=500,
            fetch_max_bytes=_FETCH_ALL_BYTES,
            max_partition_fetch_bytes=_FETCH_BYTES,
        ) as reader:
            reading = _Reading(
                reader,
                self._logs,
                await write(model.positions),
                await write(model.as_of_ms),
            )
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                await reading.begin(self._clock.now_ms())
            looked_s = time.monotonic()
            while True:
                batch, moved = await reading.more()
                if reading.done(moved) or moved:
                    await write(partial(model.apply, batch, moved, reading.as_of_ms))
                self.lag = ProjectionLag(reading.as_of_ms, reading.lag, reading.trouble)
                if reading.trouble:
                    self._say(reading.trouble)
                if time.monotonic() - looked_s >= _LOOK_EVERY_S:
                    if not self._path.exists():
                        raise sqlite3.DatabaseError("the file was removed")
                    # aiokafka's own timeout is much longer.
                    async with asyncio.timeout(_ANSWER_WITHIN_S):
                        await reading.look(self._clock.now_ms())
                    await write(partial(model.sweep, self._clock.now_ms()))
                    looked_s = time.monotonic()


class _Reading:
    """Reads all logs from the saved positions."""

    def __init__(
        self,
        reader: Reader,
        logs: list[TopicPartition],
        positions: Mapping[TopicLog, LogPosition],
        as_of_ms: int | None,
    ) -> None:
        self.as_of_ms = as_of_ms
        self._reader = reader
        self._logs = logs
        self._at: dict[Any, LogPosition] = {log: positions[log] for log in logs if log in positions}
        self._unproven: set[Any] = set()
        self._ends: dict[Any, int] = {}
        self._asked_ms: int | None = None
        self._goal: dict[Any, int] = {}

    async def begin(self, now_ms: int) -> None:
        """Start at each log's last record that was read. It must still be the same record."""
        begins = await self._reader.begins(self._logs)
        starts: dict[TopicPartition, int] = {}
        for log in self._logs:
            at = self._at.get(log)
            if at is not None and at.last >= begins[log]:
                self._unproven.add(log)
                starts[log] = at.last
            else:
                at = LogPosition(max(begins[log], at.next if at else 0))
                self._at[log] = at
                starts[log] = at.next
        self._records = self._reader.follow(
            starts,
            wait_ms=200,
            max_records=_MAX_RECORDS,
            pass_unreadable=True,
        )
        await self.look(now_ms)

    async def look(self, now_ms: int) -> None:
        """Get the end offsets of the logs."""
        ends = await self._reader.ends(self._logs)
        before = self._ends
        self._ends = ends
        for log, end in self._ends.items():
            reached = max(self._at[log].next, before.get(log, 0))
            if end < reached:
                raise _Replaced(
                    f"{log.topic}/{log.partition} was at {reached} and ends at {end}: the "
                    "topic was created again",
                )
        if not self._goal:
            self._asked_ms = now_ms
            self._goal = dict(self._ends)

    async def more(self) -> tuple[dict[str, list[KafkaRecord]], dict[Any, LogPosition]]:
        """Return the next records by topic, and the positions after them."""
        batch: dict[str, list[KafkaRecord]] = {}
        moved: dict[Any, LogPosition] = {}
        for _ in range(_MAX_POLLS_AT_ONCE):
            polled = await anext(self._records)
            for log, records in polled.items():
                at = self._at[log]
                if records and log in self._unproven:
                    self._prove(log, at, records)
                batch.setdefault(log.topic, []).extend(records)
                if records:
                    last = records[-1]
                    moved[log] = LogPosition(at.next, last.offset, mark(last))
            if sum(map(len, polled.values())) < _MAX_RECORDS:
                break  # it has caught up, or waits for Kafka
            await asyncio.sleep(0)
        for log in self._logs:
            at = moved.get(log, self._at[log])
            position = await self._reader.position(log)
            if position > at.next:
                moved[log] = msgspec.structs.replace(at, next=position)
        return batch, moved

    def done(self, moved: Mapping[Any, LogPosition]) -> bool:
        """Note that the model is about to store these positions.

        True if it is now complete for the first time.
        """
        self._at.update(moved)
        was_complete = self.as_of_ms is not None
        if self._goal and all(self._at[log].next >= end for log, end in self._goal.items()):
            self.as_of_ms = self._asked_ms
            self._goal = {}
        return not was_complete and self.as_of_ms is not None

    @property
    def lag(self) -> int:
        """Offsets to read; some of them hold no record."""
        return sum(max(0, end - self._at[log].next) for log, end in self._ends.items())

    @property
    def trouble(self) -> str:
        """Describe the partitions that are blocked although Kafka responds."""
        return "; ".join(map(str, self._reader.unreadable))

    def _prove(self, log: Any, at: LogPosition, records: list[Any]) -> None:
        """Drop the record that was read before.

        It may be compacted away, but not replaced by another record.
        """
        self._unproven.discard(log)
        if records[0].offset == at.last and mark(records.pop(0)) != at.mark:
            raise _Replaced(
                f"{log.topic}/{log.partition} has another record at {at.last}: "
                "the topic was created again",
            )
