"""Sends letters back to leads.retry, by one operator at a time: whoever begins last fences those who began before.

Each goes at most once (domain/dead_letter/redrive_dedup.py), and the line takes a failed lead's letter only while it is
the last word on its lead. So a run that was interrupted is simply run again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Final, Self

import msgspec

from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of
from stream_app.domain.dead_letter.causes import addressed_to
from stream_app.domain.dead_letter.headers import WorkspaceKeys
from stream_app.domain.dead_letter.redrive_dedup import outlived, sent_row
from stream_app.domain.dead_letter.replay import Pace, goes_on, redriven
from stream_app.domain.delivery.envelope import read_envelope
from stream_app.domain.errors import Fenced, StreamAppError
from stream_app.domain.record import ConsumedRecord, Record
from stream_app.domain.topics import MAX_CARRIED_BYTES
from stream_app.kafka.readers import TopicReader
from stream_app.kafka.transactional_state import StateStoreLimits, TransactionalState
from stream_app.ops.clock import SystemClock
from stream_app.replay.plan import Chosen

_MOST_AT_ONCE: Final = 500

Mend = Callable[[ConsumedRecord, bool], bytes | None]
"""A letter and whether it goes on with its own story -> the value to send. Raises ValueError where it must not go."""


class Sent(msgspec.Struct):
    """How many letters went, and the reasons of those that did not, by place."""

    letters: int = 0
    refused: dict[str, str] = msgspec.field(default_factory=dict)


def as_it_is(letter: ConsumedRecord, same_lead: bool) -> bytes | None:
    """The value that the letter has. Raises ValueError where it has none, though its lead is to be sent."""
    if same_lead and not letter.value:
        raise ValueError("it holds nothing of its lead (any more): publish the lead anew")
    return letter.value


class Operator:
    """The one who sends letters back, from `async with` on."""

    def __init__(self, settings: Settings) -> None:
        names, connection = settings.names, connection_of(settings)
        limits = StateStoreLimits(topic_max_record_bytes={names.retry: MAX_CARRIED_BYTES - 1024})
        everywhere = {(names.retry, number) for number in range(settings.kafka.partitions)}
        self._ledger = TransactionalState(
            connection, f"{names.replay_app}-operator", names.replay_state, 0, limits, writes_to=everywhere
        )
        self._retry, self._state = names.retry, names.replay_state
        kept = settings.topics
        # A segment goes as a whole, a day after its last record's time at most, and the broker looks now and then.
        self._kept_ms = (max(kept.dlq_days, kept.deferred_days, kept.parked_days) + 2) * 86_400_000
        self._outlived = list[Record]()
        self._clock = SystemClock()

    async def __aenter__(self) -> Self:
        rows = await self._ledger.take_over()
        oldest_ms = self._clock.now_ms() - self._kept_ms
        self._outlived = [Record(self._state, key, None) for key in outlived(rows, oldest_ms)]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._ledger.close()

    async def send(
        self,
        letters: AsyncIterator[ConsumedRecord],
        paces: Mapping[str, float],
        on_progress: Callable[[Sent], None],
        mend: Mend = as_it_is,
    ) -> Sent:
        """All of them, in order. Raises StreamAppError when another operator has begun meanwhile.

        paces  letters a second, by workspace, as the plan has them.
        """
        sent, waiting, pace = Sent(), self._outlived, Pace(paces)
        try:
            async for letter in letters:
                envelope = read_envelope(letter)
                try:
                    value = mend(letter, goes_on(envelope))
                except ValueError as error:
                    sent.refused[letter.place] = str(error)
                    continue
                workspace, _ = addressed_to(dict(letter.headers), letter.key, value)
                turn_ms = pace.turn_ms(workspace, self._clock.now_ms())
                if len(waiting) >= _MOST_AT_ONCE or turn_ms > self._clock.now_ms():
                    await self._publish(waiting, sent)
                    on_progress(sent)
                    await asyncio.sleep(max(0, turn_ms - self._clock.now_ms()) / 1000)
                headers = redriven(envelope, letter.place).to_headers()
                key = letter.key if value is not None else letter.key or b""
                waiting.append(Record(self._retry, key, value, headers, letter.partition))
                if not goes_on(envelope):
                    waiting.append(Record(self._state, *sent_row(letter)))
            await self._publish(waiting, sent)
        except Fenced:
            raise StreamAppError(
                f"another operator has begun to send letters back: this run ended after {sent.letters}. "
                "See what they do, then run it again if it is still needed: nothing goes twice"
            ) from None
        on_progress(sent)
        return sent

    async def _publish(self, waiting: list[Record], sent: Sent) -> None:
        if waiting:
            await self._ledger.transact(waiting)
            sent.letters += sum(record.topic == self._retry for record in waiting)
            waiting.clear()


async def letters_at(
    reader: TopicReader, topic: str, chosen: Chosen, keys: WorkspaceKeys
) -> AsyncIterator[ConsumedRecord]:
    """The letters at these places, read again."""
    ranges = {partition: (min(offsets), max(offsets) + 1) for partition, offsets in chosen.items() if offsets}
    if not ranges:
        return
    async for records in reader.read(topic, ranges):
        for letter in taken_from(records, keys):
            if letter.offset in chosen[letter.partition]:
                yield letter


def taken_from(records: Iterable[Any], keys: WorkspaceKeys) -> Iterable[ConsumedRecord]:
    """aiokafka's records as ours, each keyed by its workspace if that is configured."""
    for record in records:
        headers = tuple((name, value or b"") for name, value in record.headers)
        place = (record.topic, record.partition, record.offset)
        yield ConsumedRecord(*place, keys.restore(record.key), record.value, headers, record.timestamp)
