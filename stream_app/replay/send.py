"""Send dead letters back to leads.retry. One operator at a time: a new one fences those before it.

Each dead letter is sent at most once (domain/dead_letter/redrive_dedup.py), and the lead pipeline accepts one only if
it is the latest record of its lead. So an interrupted run can simply be repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, Self

import msgspec

from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of
from stream_app.domain.dead_letter.causes import addressed_to
from stream_app.domain.dead_letter.headers import WorkspaceKeys
from stream_app.domain.dead_letter.orders import ReplayOrders
from stream_app.domain.dead_letter.redrive_dedup import outlived, sent_row
from stream_app.domain.dead_letter.replay import Pace, goes_on, redriven
from stream_app.domain.delivery.envelope import read_envelope
from stream_app.domain.record import ConsumedRecord, Record
from stream_app.domain.topics import MAX_CARRIED_BYTES
from stream_app.kafka.readers import TopicReader, consumed
from stream_app.kafka.transactional_state import StateStoreLimits, TransactionalState
from stream_app.ops.clock import SystemClock
from stream_app.replay.plan import Chosen

_MOST_AT_ONCE: Final = 500


class Sent(msgspec.Struct):
    """The result so far.

    Attributes:
        dead_letters: How many were sent.
        refused: Record id -> why it was not sent.
        next: Partition -> the offset after the last dead letter that was sent or refused.
    """

    dead_letters: int = 0
    refused: dict[str, str] = msgspec.field(default_factory=dict)
    next: dict[int, int] = msgspec.field(default_factory=dict)


class Redriver:
    """Sends dead letters back. `async with` fences every operator that started before, and reads the `orders`.

    Attributes:
        orders: The ordered replays when it started.
        sent: How many dead letters it has sent.
    """

    def __init__(self, settings: Settings) -> None:
        names, connection = settings.names, connection_of(settings)
        limits = StateStoreLimits(topic_max_record_bytes={names.retry: MAX_CARRIED_BYTES - 1024})
        everywhere = {(names.retry, number) for number in range(settings.kafka.partitions)}
        self._state = TransactionalState(
            connection,
            f"{names.replay_app}-operator",
            names.replay_state,
            0,
            limits,
            writes_to=everywhere | {(names.audit, 0)},
        )
        self._retry_topic, self._state_topic = names.retry, names.replay_state
        kept = settings.topics
        # Kafka deletes whole segments, which may keep a record for a day longer.
        self._kept_ms = (max(kept.dlq_days, kept.deferred_days, kept.parked_days) + 2) * 86_400_000
        self._outlived = list[Record]()
        self._clock = SystemClock()
        self.orders = ReplayOrders()
        self.sent = 0

    async def __aenter__(self) -> Self:
        rows = await self._state.take_over()
        self.orders = ReplayOrders(rows.items())
        oldest_ms = self._clock.now_ms() - self._kept_ms
        keys = [*outlived(rows, oldest_ms), *self.orders.outlived(oldest_ms)]
        self._outlived = [Record(self._state_topic, key, None) for key in keys]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._state.close()

    async def write(self, rows: Mapping[bytes, bytes | None], others: Iterable[Record] = ()) -> None:
        """Write rows of the replay state and records of other topics in one transaction.

        Raises:
            Fenced: Another operator has started meanwhile.
            Aborted: The transaction failed.
        """
        await self._state.transact([*(Record(self._state_topic, *row) for row in rows.items()), *others])

    async def send(
        self,
        dead_letters: AsyncIterator[ConsumedRecord],
        paces: Mapping[str, float],
        progress: Callable[[Sent], Mapping[bytes, bytes]] = lambda sent: {},
        stop: asyncio.Event | None = None,
    ) -> Sent:
        """Send the dead letters in order.

        `paces`: dead letters per second, by workspace. `progress` is called with the result including the next batch,
        and returns rows to write in its transaction. `stop` ends it early, after the batch under way.

        Raises:
            Fenced: Another operator has started meanwhile.
            Aborted: The transaction failed.
        """
        sent, waiting, pace = Sent(), self._outlived, Pace(paces)
        stop = stop or asyncio.Event()
        async for dead_letter in dead_letters:
            envelope = read_envelope(dead_letter)
            value = dead_letter.value
            if goes_on(envelope) and not value:
                sent.refused[dead_letter.record_id] = "it no longer holds its lead: publish the lead again"
                sent.next[dead_letter.partition] = dead_letter.offset + 1
                continue
            workspace, _ = addressed_to(dict(dead_letter.headers), dead_letter.key, value)
            turn_ms = pace.turn_ms(workspace, self._clock.now_ms())
            if len(waiting) >= _MOST_AT_ONCE or turn_ms > self._clock.now_ms():
                await self._publish(waiting, sent, progress)
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), max(0, turn_ms - self._clock.now_ms()) / 1000)
            if stop.is_set():
                break
            headers = redriven(envelope, dead_letter.record_id).to_headers()
            key = dead_letter.key if value is not None else dead_letter.key or b""
            waiting.append(Record(self._retry_topic, key, value, headers, dead_letter.partition))
            if not goes_on(envelope):
                waiting.append(Record(self._state_topic, *sent_row(dead_letter)))
            sent.next[dead_letter.partition] = dead_letter.offset + 1
        await self._publish(waiting, sent, progress)
        return sent

    async def _publish(
        self, waiting: list[Record], sent: Sent, progress: Callable[[Sent], Mapping[bytes, bytes]]
    ) -> None:
        if waiting:
            number = sum(record.topic == self._retry_topic for record in waiting)
            sent.dead_letters += number
            waiting += [Record(self._state_topic, *row) for row in progress(sent).items()]
            await self._state.transact(waiting)
            self.sent += number
            waiting.clear()


async def dead_letters_at(
    reader: TopicReader, topic: str, chosen: Chosen, keys: WorkspaceKeys
) -> AsyncIterator[ConsumedRecord]:
    """Read the chosen dead letters."""
    ranges = {partition: (min(offsets), max(offsets) + 1) for partition, offsets in chosen.items() if offsets}
    if not ranges:
        return
    async for records in reader.read(topic, ranges):
        for dead_letter in consumed_records(records, keys):
            if dead_letter.offset in chosen[dead_letter.partition]:
                yield dead_letter


def consumed_records(records: Iterable[Any], keys: WorkspaceKeys) -> Iterable[ConsumedRecord]:
    """Convert aiokafka's records, and restore the workspace as their key."""
    for record in records:
        yield msgspec.structs.replace(consumed(record), key=keys.restore(record.key))
