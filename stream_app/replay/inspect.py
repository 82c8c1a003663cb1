"""Looks at dead letters: counts them, shows one with its history, exports them, and reads such a file back."""

from __future__ import annotations

import base64
import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from stream_app.config import Settings
from stream_app.domain.dead_letter.causes import Filter, Kind, Tally, headers_of, kind_of, text
from stream_app.domain.dead_letter.headers import WorkspaceKeys, pseudonymous_key, read_place
from stream_app.domain.delivery.envelope import HEADERS
from stream_app.domain.errors import SettingsError, StreamAppError
from stream_app.domain.lead.suppression import SuppressionList
from stream_app.domain.messages import StatusEvent
from stream_app.domain.record import ConsumedRecord
from stream_app.kafka.readers import Progress, TopicReader
from stream_app.ops.clock import SystemClock
from stream_app.replay.document import read_document, write_document
from stream_app.replay.plan import Source, check_filter, reader_of, topic_of
from stream_app.replay.select import taken_from

_event: Final = msgspec.json.Decoder(StatusEvent)


class Shown(msgspec.Struct):
    """One letter: its headers as text, the events of its lead's story. `suppressed`: it never goes, as its person is on
    the list, or it was erased.
    """

    letter: ConsumedRecord
    headers: dict[str, str]
    history: list[StatusEvent]
    suppressed: bool


class Listed(msgspec.Struct, frozen=True):
    """One letter by its headers alone. `place`: topic/partition/offset, as `show` takes it."""

    place: str
    at_ms: int
    kind: Kind
    reason: str
    workspace: str
    destination: str
    lead_id: str
    text: str


class EditedRecord(msgspec.Struct, frozen=True):
    """A line of a file to import: which letter, and the value that it is to have."""

    line: int
    topic: str
    partition: int
    offset: int
    value: bytes


async def count(settings: Settings, source: Source, wanted: Filter, progress: Progress) -> Tally:
    """All letters that are meant, by cause. Raises SettingsError, BrokerUnavailable.

    Values are read only where somebody is on the suppression list.
    """
    check_filter(settings, source, wanted)
    tally = Tally(SystemClock().now_ms())
    matches = None if wanted == Filter() else wanted.matches
    keys = WorkspaceKeys(settings.workspaces)
    async with reader_of(settings, progress) as reader:
        on_list = await _on_the_list(reader, settings.names.state)
        async for records in reader.read(topic_of(settings, source)):
            for record in records:
                headers, key, at_ms = headers_of(record.headers), keys.restore(record.key), record.timestamp
                if matches is None or matches(headers, key, at_ms):
                    tally.add(headers, pseudonymous_key(key, settings.workspaces), at_ms)
                    tally.suppressed += on_list.names(headers, key, record.value, at_ms)
    return tally


async def newest(
    settings: Settings, source: Source, wanted: Filter, limit: int, progress: Progress
) -> tuple[list[Listed], int]:
    """The newest letters that match, newest first, and how many match in all.

    Raises:
        SettingsError: The filter contradicts itself, or names what the configuration does not have.
        BrokerUnavailable: Kafka does not answer.
    """
    check_filter(settings, source, wanted)
    topic, matching, keys = topic_of(settings, source), 0, WorkspaceKeys(settings.workspaces)
    kept: list[tuple[int, int, int, Listed]] = []  # a heap: the oldest of the newest first
    async with reader_of(settings, progress) as reader:
        async for records in reader.read(topic):
            for record in records:
                headers, key = headers_of(record.headers), keys.restore(record.key)
                if not wanted.matches(headers, key, record.timestamp):
                    continue
                matching += 1
                workspace = (pseudonymous_key(key, settings.workspaces) or b"").decode()
                order = (record.timestamp, record.partition, record.offset)
                if len(kept) < limit:
                    heapq.heappush(kept, (*order, _listed(topic, record, headers, workspace)))
                elif order > kept[0][:3]:
                    heapq.heapreplace(kept, (*order, _listed(topic, record, headers, workspace)))
    return [listed for *_, listed in sorted(kept, key=lambda each: each[:3], reverse=True)], matching


def _listed(topic: str, record: Any, headers: dict[str, bytes], workspace: str) -> Listed:
    return Listed(
        f"{topic}/{record.partition}/{record.offset}",
        record.timestamp,
        kind_of(headers),
        text(headers, HEADERS["reason"]),
        workspace,
        text(headers, HEADERS["destination"]),
        text(headers, HEADERS["lead_id"]),
        text(headers, HEADERS["text"]),
    )


async def _on_the_list(reader: TopicReader, state: str, partition: int | None = None) -> SuppressionList:
    """Who is never to be sent, as all partitions say it, or one."""
    on_list = SuppressionList()
    ranges = None if partition is None else {partition: (await reader.bounds(state))[partition]}
    async for records in reader.read(state, ranges):
        for record in records:
            on_list.hear(record.key, record.value, record.partition)
    return on_list


async def show(settings: Settings, place: str, progress: Progress) -> Shown:
    """The letter at topic/partition/offset. Raises SettingsError for what is no such place, StreamAppError
    when there is none, BrokerUnavailable.
    """
    topic, partition, offset = place_of(settings, place)
    async with reader_of(settings, progress) as reader:
        found: list[ConsumedRecord] = []
        async for records in reader.read(topic, {partition: (offset, offset + 1)}):
            found += taken_from(records, WorkspaceKeys(settings.workspaces))
        if not found:
            raise StreamAppError(f"there is no letter at {place}: it was never there, or is no longer kept")
        headers = dict(found[0].headers)
        history = await _history(reader, settings.names.status, partition, headers.get(HEADERS["origin"], b""))
        on_list = await _on_the_list(reader, settings.names.state, partition)
    shown = {name: _shown(value) for name, value in headers.items()}
    letter = found[0]
    suppressed = on_list.names(headers, letter.key, letter.value, letter.timestamp_ms)
    return Shown(letter, shown, history, suppressed)


async def _history(reader: TopicReader, status: str, partition: int, origin: bytes) -> list[StatusEvent]:
    """The events of that origin, as far as they are kept."""
    bounds = await reader.bounds(status)
    found = []
    async for records in reader.read(status, {partition: bounds[partition]}):
        for record in records:
            if origin and record.value and origin in record.value:
                event = _event.decode(record.value)
                if event.origin.encode() == origin:
                    found.append(event)
    return found


async def export(
    settings: Settings, source: Source, wanted: Filter, file: IO[str], progress: Progress
) -> tuple[int, int]:
    """The letters that are meant, one JSON object a line; how many, and how many were left out because their person is
    on the suppression list. Raises SettingsError, BrokerUnavailable.
    """
    check_filter(settings, source, wanted)
    lines = left_out = 0
    keys = WorkspaceKeys(settings.workspaces)
    async with reader_of(settings, progress) as reader:
        on_list = await _on_the_list(reader, settings.names.state)
        async for records in reader.read(topic_of(settings, source)):
            for letter in taken_from(records, keys):
                headers = dict(letter.headers)
                if not wanted.matches(headers, letter.key, letter.timestamp_ms):
                    continue
                if on_list.names(headers, letter.key, letter.value, letter.timestamp_ms):
                    left_out += 1
                else:
                    file.write(line_of(letter, headers) + "\n")
                    lines += 1
    return lines, left_out


def read_export(settings: Settings, path: Path) -> Iterator[EditedRecord]:
    """The lines of a file as `export` writes it. Raises SettingsError for the first that cannot be used."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _mended(settings, number, line)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path}: cannot be read: {error}"]) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError([f"{path}, line {number}: is no line of an export: {error}"]) from None


def _mended(settings: Settings, number: int, line: str) -> EditedRecord:
    document = read_document(line.encode())
    topic, partition, offset = place_of(settings, document["place"])
    if "lead" in document:
        value = write_document(document["lead"])
    elif "value_base64" in document:
        value = base64.b64decode(document["value_base64"], validate=True)
    else:
        raise ValueError("it has neither lead nor value_base64")
    return EditedRecord(number, topic, partition, offset, value)


def line_of(letter: ConsumedRecord, headers: dict[str, bytes]) -> str:
    """A line of an export: its value as JSON where that brings it back as it was, else as it is."""
    line: dict[str, Any] = {
        "place": letter.place,
        "key": (letter.key or b"").decode("utf-8", "replace"),
        "headers": {name: text(headers, name) for name in HEADERS.values() if name in headers},
    }
    try:
        return write_document({**line, "lead": read_document(letter.value)}).decode()
    except ValueError:
        return write_document({**line, "value_base64": base64.b64encode(letter.value or b"").decode()}).decode()


def place_of(settings: Settings, place: str) -> tuple[str, int, int]:
    """Topic, partition and offset of a letter. Raises SettingsError for what is no such place."""
    found, names = read_place(place), settings.names
    if found is None or found[0] not in (names.dlq, names.parked, names.deferred):
        raise SettingsError([f"{place} is no place of a letter, such as {names.dlq}/0/17"])
    if found[1] >= settings.kafka.partitions:
        raise SettingsError([f"{place}: there are partitions 0 to {settings.kafka.partitions - 1}"])
    return found


def _shown(value: bytes) -> str:
    return value.decode("utf-8") if _is_text(value) else f"0x{value.hex()}"


def _is_text(value: bytes) -> bool:
    try:
        return value.decode("utf-8").isprintable()
    except UnicodeDecodeError:
        return False
