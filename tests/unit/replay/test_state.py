"""Where a replay process begins in a partition that was just assigned to it: other processes may
still record and commit there.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import msgspec
import pytest
from aiokafka import TopicPartition

from stream_app.domain.commands import CommandAnswer
from stream_app.domain.dead_letter.orders import PAUSE, ReplayPause
from stream_app.domain.dead_letter.replay import Came
from stream_app.domain.model.records import ConsumedRecord, Record
from stream_app.domain.model.topics import TopicNames
from stream_app.kafka.connection import KafkaConnection
from stream_app.replay import state as module
from stream_app.replay.state import ReplayState
from tests.support.partition.virtual import virtual_time

NAMES = TopicNames()
DLQ = TopicPartition(NAMES.dlq, 0)


class Kafka:
    """The state topic with one partition, and the group's offset on leads.dlq.

    Attributes:
        offset: The group's offset.
        before: The process before, which works on: it commits and records this offset behind the
            next question that is answered.
        behind_s: How long a record takes to reach the reader.
        unconfirmed: The records that are written and not confirmed; None: each is confirmed at
            once.
    """

    def __init__(self) -> None:
        self.offset: int | None = None
        self.before: int | None = None
        self.behind_s = 0.0
        self.unconfirmed: list[asyncio.Future[None]] | None = None
        self.log: list[ConsumedRecord] = []
        self._position = 0

    def record(self, offset: int, epoch: int = 0) -> None:
        self._append(f"dlq/0/{epoch}".encode(), msgspec.json.encode(Came(offset)))

    def pause(self) -> None:
        self._append(PAUSE, msgspec.json.encode(ReplayPause("jane", "because", 1)))

    def recorded(self) -> dict[str, int]:
        """The offset of each epoch."""
        return {
            (record.key or b"").decode(): msgspec.json.decode(record.value or b"", type=Came).offset
            for record in self.log
        }

    async def publish(self, record: Record) -> asyncio.Future[None]:
        self._append(record.key or b"", record.value or b"")
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.unconfirmed is None:
            written.set_result(None)
        else:
            self.unconfirmed.append(written)
        return written

    async def committed(self, *_: object) -> dict[TopicPartition, int]:
        offset = self.offset
        self._work_on()
        return {} if offset is None else {DLQ: offset}

    # What `ReplayState` asks of its reader.

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def begins(self, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 0)

    async def ends(self, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        ends = dict.fromkeys(places, len(self.log))
        self._work_on()
        return ends

    async def position(self, _: TopicPartition) -> int:
        return self._position

    async def follow(
        self,
        starts: Mapping[TopicPartition, int],
        wait_ms: int,
    ) -> AsyncIterator[dict[TopicPartition, Sequence[ConsumedRecord]]]:
        (place,) = starts
        while True:
            await asyncio.sleep(wait_ms / 1000)
            if self._position < len(self.log):
                await asyncio.sleep(self.behind_s)
                polled = self.log[self._position :]
                self._position = len(self.log)
                yield {place: polled}

    def _append(self, key: bytes, value: bytes) -> None:
        self.log.append(ConsumedRecord(NAMES.replay_state, 0, len(self.log), key, value))

    def _work_on(self) -> None:
        if self.before is not None:
            self.offset = self.before
            self.record(self.before)
            self.before = None


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Kafka:
    kafka = Kafka()

    @asynccontextmanager
    async def no_admin(*_: object) -> AsyncIterator[None]:
        yield

    def reader(*_: object, **__: object) -> Kafka:
        return kafka

    monkeypatch.setattr(module, "Reader", reader)
    monkeypatch.setattr(module, "open_admin", no_admin)
    monkeypatch.setattr(module, "committed_offsets", kafka.committed)
    return kafka


def state_on(kafka: Kafka) -> ReplayState:
    publish: Any = kafka.publish
    return ReplayState(KafkaConnection("127.0.0.1:9"), NAMES, 1, publish)


@virtual_time
async def test_a_rewind_is_seen_although_the_newest_record_has_not_come_yet(kafka: Kafka) -> None:
    kafka.offset = 9
    async with state_on(kafka) as state:
        kafka.behind_s = 5.0
        kafka.record(9)
        kafka.offset = 2  # an operator rewinds the group
        how = await state.begin(0)
        assert how.rewound
        assert how.epoch == 1
        assert how.seen_to == 9
    assert kafka.recorded() == {"dlq/0/0": 9, "dlq/0/1": 2}


@virtual_time
async def test_no_offset_of_a_new_epoch_is_recorded_before_its_beginning_is(kafka: Kafka) -> None:
    kafka.offset = 9
    kafka.record(9)
    async with state_on(kafka) as state:
        kafka.offset = 2  # an operator rewinds the group
        kafka.unconfirmed = []
        beginning = asyncio.create_task(state.begin(0))
        await asyncio.sleep(1.0)
        kafka.offset = 3  # what was committed meanwhile
        await asyncio.sleep(5.0)
        assert kafka.recorded() == {"dlq/0/0": 9, "dlq/0/1": 2}
        for written in kafka.unconfirmed:
            written.set_result(None)
        kafka.unconfirmed = None
        await beginning
        await asyncio.sleep(5.0)
        assert kafka.recorded() == {"dlq/0/0": 9, "dlq/0/1": 3}


@virtual_time
async def test_a_process_that_still_commits_there_looks_like_no_rewind(kafka: Kafka) -> None:
    """Its newest record may be ahead of an offset that was read before it."""
    kafka.offset = 5
    kafka.record(5)
    async with state_on(kafka) as state:
        kafka.before = 9
        how = await state.begin(0)
        assert not how.rewound
        assert how.epoch == 0
    assert kafka.offset == 9
    assert kafka.recorded() == {"dlq/0/0": 9}


@virtual_time
async def test_a_pause_is_known_before_a_process_moves_its_first_record(kafka: Kafka) -> None:
    kafka.behind_s = 5.0
    kafka.pause()
    async with state_on(kafka) as state:
        assert not state.moving.is_set()
        assert state.pause is not None


@virtual_time
async def test_a_process_records_no_more_once_another_has_begun_a_newer_epoch(kafka: Kafka) -> None:
    kafka.offset = 5
    kafka.record(5)
    async with state_on(kafka) as state:
        await state.begin(0)
        kafka.record(2, epoch=1)  # another process owns the partition now, and saw a rewind
        await asyncio.sleep(1.0)
        kafka.offset = 9  # what that one has committed since then
        await state.record()
    assert kafka.recorded() == {"dlq/0/0": 5, "dlq/0/1": 2}


@virtual_time
async def test_the_audit_says_of_a_pause_what_was_done(kafka: Kafka) -> None:
    """If the second write fails, the pause is in force and its operator repeats the command."""
    audited = CommandAnswer("c-1", True, 1, 0, "replay_pause", who="jane", why="because")
    async with state_on(kafka) as state:
        await state.set_pause(ReplayPause("jane", "because", 1), audited)
    assert [record.key for record in kafka.log] == [PAUSE, b""]
