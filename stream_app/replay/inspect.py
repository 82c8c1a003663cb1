"""Reads dead letters: counts and lists them, shows one with its history, and exports them."""

import base64
import heapq
import json
from collections.abc import AsyncIterator, Container
from contextlib import suppress
from typing import IO, Any, Final

import msgspec
from aiokafka import TopicPartition

from stream_app.clock import Clock
from stream_app.config import Settings
from stream_app.config.kafka_access import topic_reader
from stream_app.domain.dead_letter.causes import (
    DeadLetterTally,
    Filter,
    LetterKind,
    LetterSource,
    headers_of,
    kind_of,
    number,
    shown_key,
    text,
)
from stream_app.domain.dead_letter.replay import SuppressionList
from stream_app.domain.delivery.envelope import HEADERS, WorkspaceKeys
from stream_app.domain.model.errors import SettingsError, StreamAppError
from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.model.records import ConsumedRecord, parse_record_id
from stream_app.domain.model.untrusted import check_depth
from stream_app.kafka.batches import opened
from stream_app.kafka.readers import Progress, TopicReader, consumed
from stream_app.replay.plan import dead_letter_of, records_at, topic_of

_OF_AN_IMPORT: Final = ("import_id", "import_summary")
_event: Final = msgspec.json.Decoder(StatusEvent)


class Shown(msgspec.Struct):
    """One dead letter.

    Attributes:
        dead_letter: The record.
        headers: Its headers as text.
        history: The status events of its origin, as far as Kafka keeps them.
        suppressed: True if it is never sent, because its person is on the suppression list or its
            lead was erased.
    """

    dead_letter: ConsumedRecord
    headers: dict[str, str]
    history: list[StatusEvent]
    suppressed: bool


class Listed(msgspec.Struct, frozen=True):
    """One dead letter, read from its headers only. `record_id` is what `dlq show` takes."""

    record_id: str
    at_ms: int
    kind: LetterKind
    reason: str
    workspace: str
    destination: str
    lead_id: str
    text: str


async def count(
    settings: Settings,
    source: LetterSource,
    wanted: Filter,
    progress: Progress,
) -> DeadLetterTally:
    """Count the matching dead letters by cause. Raises BrokerUnavailable."""
    tally = DeadLetterTally(Clock().now_ms())
    async with topic_reader(settings, progress) as reader:
        on_list = await _on_the_list(reader, settings.names.state)
        async for record, headers, key in _matching(reader, settings, source, wanted):
            tally.add(headers, shown_key(headers, key, settings.workspaces), record.timestamp)
            tally.suppressed += on_list.names(headers, key, record.value, record.timestamp)
    return tally


async def newest(
    settings: Settings,
    source: LetterSource,
    wanted: Filter,
    limit: int,
    progress: Progress,
) -> tuple[list[Listed], int]:
    """Return the newest matching dead letters, newest first, and how many match in all.

    Raises:
        BrokerUnavailable: Kafka does not answer.
    """
    topic = topic_of(settings, source)
    matching = 0
    # A heap, whose first item is the oldest of the newest records.
    kept: list[tuple[int, int, int, dict[str, bytes], bytes | None]] = []
    async with topic_reader(settings, progress) as reader:
        async for record, headers, key in _matching(reader, settings, source, wanted):
            matching += 1
            heapq.heappush(kept, (record.timestamp, record.partition, record.offset, headers, key))
            if len(kept) > limit:
                heapq.heappop(kept)
    return [
        Listed(
            f"{topic}/{partition}/{offset}",
            at_ms,
            kind_of(headers),
            text(headers, HEADERS["reason"]),
            (shown_key(headers, key, settings.workspaces) or b"").decode(),
            text(headers, HEADERS["destination"]),
            text(headers, HEADERS["lead_id"]),
            text(headers, HEADERS["text"]),
        )
        for at_ms, partition, offset, headers, key in sorted(kept, reverse=True)
    ], matching


async def _matching(
    reader: TopicReader,
    settings: Settings,
    source: LetterSource,
    wanted: Filter,
) -> AsyncIterator[tuple[Any, dict[str, bytes], bytes | None]]:
    """Read the matching dead letters as PlainRecords, with their headers and restored keys."""
    keys = WorkspaceKeys(settings.workspaces)
    every = wanted == Filter()
    async for records in reader.read(topic_of(settings, source)):
        for record in records:
            headers = headers_of(record.headers)
            key = keys.restore(record.key)
            if every or wanted.matches(headers, key, record.value, record.timestamp):
                yield record, headers, key


async def _on_the_list(reader: TopicReader, state: str) -> SuppressionList:
    """Read the suppression list from all partitions.

    One partition is not enough, because a dead letter may lie outside the home of its workspace.
    """
    on_list = SuppressionList()
    async for records in reader.read(state):
        for record in records:
            on_list.apply(record.key, record.value, record.partition)
    return on_list


async def show(settings: Settings, record_id: str, progress: Progress) -> Shown:
    """Read one dead letter with its history.

    Raises:
        SettingsError: It is not the id of a dead letter.
        StreamAppError: No record is there.
        BrokerUnavailable: Kafka does not answer.
    """
    topic, partition, offset = parse_dead_letter_id(settings, record_id)
    async with topic_reader(settings, progress) as reader:
        dead_letter = await _dead_letter(reader, settings, topic, partition, offset)
        headers = dict(dead_letter.headers)
        history = await _history(
            reader,
            settings.names.status,
            partition,
            headers.get(HEADERS["origin"], b""),
        )
        on_list = await _on_the_list(reader, settings.names.state)
    shown = {name: _shown(value) for name, value in headers.items()}
    suppressed = on_list.names(
        headers,
        dead_letter.key,
        dead_letter.value,
        dead_letter.timestamp_ms,
    )
    return Shown(dead_letter, shown, history, suppressed)


async def _history(
    reader: TopicReader,
    status: str,
    partition: int,
    origin: bytes,
) -> list[StatusEvent]:
    """Read the status events of an origin that Kafka keeps."""
    bounds = await reader.bounds(status)
    events = []
    async for records in reader.read(status, {partition: bounds[partition]}):
        for record in records:
            if origin and record.value and origin in record.value:
                event = _event.decode(record.value)
                if event.origin.encode() == origin:
                    events.append(event)
    return events


async def export(
    settings: Settings,
    source: LetterSource,
    wanted: Filter,
    file: IO[str],
    progress: Progress,
) -> tuple[int, int]:
    """Write the matching dead letters, one JSON object a line. Raises BrokerUnavailable.

    Returns:
        The number written, and the number left out because of the suppression list.
    """
    lines = 0
    left_out = 0
    async with topic_reader(settings, progress) as reader:
        on_list = await _on_the_list(reader, settings.names.state)
        async for record, headers, key in _matching(reader, settings, source, wanted):
            if on_list.names(headers, key, record.value, record.timestamp):
                left_out += 1
                continue
            dead_letter = msgspec.structs.replace(consumed(record), key=key)
            file.write(line_of(dead_letter, dict(dead_letter.headers), settings.workspaces) + "\n")
            lines += 1
    return lines, left_out


async def export_batch(
    settings: Settings,
    record_id: str,
    file: IO[str],
    progress: Progress,
) -> tuple[int, int]:
    """Write the records of a batch that is one dead letter, as `export` writes dead letters.

    `publish` can read the file.

    Returns:
        The number written, and the number left out because of the suppression list.

    Raises:
        SettingsError: It is not the id of a dead letter.
        StreamAppError: No record is there, the record is no batch, or the batch cannot be opened.
        BrokerUnavailable: Kafka does not answer.
    """
    topic, partition, offset = parse_dead_letter_id(settings, record_id)
    async with topic_reader(settings, progress) as reader:
        dead_letter = await _dead_letter(reader, settings, topic, partition, offset)
        on_list = await _on_the_list(reader, settings.names.state)
    headers = dict(dead_letter.headers)
    place = parse_record_id(text(headers, HEADERS["batch_first"]))
    if place is None:
        raise StreamAppError(
            f"{record_id} is one record and no batch: stream-app dlq export writes its lead",
        )
    if cut := number(headers, HEADERS["cut_bytes"]):
        raise StreamAppError(
            f"{record_id} lacks the last {cut} bytes of its batch: ask its producer for the leads",
        )
    lines = 0
    left_out = 0
    for record in opened(TopicPartition(*place[:2]), dead_letter.value or b""):
        if record.value is None:
            continue
        if on_list.names({}, record.key, record.value, record.timestamp):
            left_out += 1
            continue
        file.write(line_of(consumed(record), {}, settings.workspaces) + "\n")
        lines += 1
    return lines, left_out


async def _dead_letter(
    reader: TopicReader,
    settings: Settings,
    topic: str,
    partition: int,
    offset: int,
) -> ConsumedRecord:
    records = [record async for record in records_at(reader, topic, {partition: {offset}})]
    if not records:
        raise StreamAppError(
            f"no dead letter at {topic}/{partition}/{offset}: it never existed, or is no longer "
            "kept; `stream-app dlq list` shows those that are",
        )
    return dead_letter_of(records[0], WorkspaceKeys(settings.workspaces))


def line_of(
    dead_letter: ConsumedRecord,
    headers: dict[str, bytes],
    workspaces: Container[str],
) -> str:
    """Format a line of an export: the lead as JSON, or the value as base64 if that is no JSON.

    `publish` reads the member `lead`. That has the workspace and the destination to which the dead
    letter would come back. It has an id only if its producer gave one, and never the import that it
    came with.
    """
    line: dict[str, Any] = {
        "record_id": dead_letter.record_id,
        "key": (dead_letter.key or b"").decode("utf-8", "replace"),
        "headers": {name: text(headers, name) for name in HEADERS.values() if name in headers},
    }
    try:
        check_depth(dead_letter.value or b"")
        lead = json.loads(dead_letter.value or b"", parse_constant=_no_number)
        if isinstance(lead, dict):
            named = {"workspace": line["key"] if line["key"] in workspaces else ""}
            named["destination"] = text(headers, HEADERS["destination"])
            lead = {name: value for name, value in lead.items() if name not in _OF_AN_IMPORT}
            lead |= {name: value for name, value in named.items() if value and not lead.get(name)}
        return write_document({**line, "lead": lead}).decode()
    except ValueError:
        return write_document(
            {**line, "value_base64": base64.b64encode(dead_letter.value or b"").decode()},
        ).decode()


def parse_dead_letter_id(settings: Settings, record_id: str) -> tuple[str, int, int]:
    """Parse the id of a dead letter to topic, partition and offset.

    Raises:
        SettingsError: It is not the id of a dead letter.
    """
    place = parse_record_id(record_id)
    names = settings.names
    if place is None or place[0] not in (names.dlq, names.parked, names.deferred):
        raise SettingsError(
            [f"{record_id}: is not the id of a dead letter, such as {names.dlq}/0/17"],
        )
    if place[1] >= settings.kafka.partitions:
        raise SettingsError(
            [f"{record_id}: the partitions are 0 to {settings.kafka.partitions - 1}"],
        )
    return place


def _shown(value: bytes) -> str:
    with suppress(UnicodeDecodeError):
        if (words := value.decode("utf-8")).isprintable():
            return words
    return f"0x{value.hex()}"


def write_document(document: Any) -> bytes:
    """Write compact JSON.

    Raises:
        ValueError: JSON cannot hold it: it has a lone surrogate, NaN or infinity, or is too deep.
    """
    try:
        return json.dumps(
            document,
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
        ).encode()
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is not a JSON number")
