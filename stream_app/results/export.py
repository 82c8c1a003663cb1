"""Exports `leads.enriched`: the last result of each lead, alone or joined to the rows of the published file.

    leads.enriched (and the people of the state) -> a store on disk -> the result of each row -> lines

Memory does not grow with the results (results/store.py), except 8 bytes a line.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from itertools import repeat
from typing import IO, Final

import msgspec

from stream_app.client.publish import Checker, PublishOptions
from stream_app.client.rows import Row, Sheet, open_csv
from stream_app.config import Settings
from stream_app.config.kafka_access import kafka_ready, topic_reader
from stream_app.domain.errors import SettingsError
from stream_app.domain.lead.identity import identify_cleaned
from stream_app.domain.lead.lead import Unreadable
from stream_app.domain.lead.person import identifiers, person_key, rows_of
from stream_app.domain.messages import Result
from stream_app.kafka.readers import Progress
from stream_app.results.lines import Format, Lines
from stream_app.results.store import ResultStore

Stage = Callable[[str, str], AbstractContextManager[Progress]]
"""Called with the name of a stage and its unit. Returns a context manager that yields the progress callback."""

_NAMED_LINES: Final = 10
_PROGRESS_EVERY: Final = 1_000

_result: Final = msgspec.json.Decoder(Result)


class ResultFilter(msgspec.Struct, frozen=True):
    """Which results to export; all conditions apply. `since_ms` (epoch ms) leaves out earlier ones."""

    workspace: str | None = None
    destination: str | None = None
    since_ms: int = 0

    def matches(self, key: bytes | None) -> bool:
        """True if the conditions match a key of `leads.enriched`."""
        parts = (key or b"").split(b"/", 2)
        asked = (self.workspace, self.destination)
        return len(parts) == 3 and all(
            wanted in (None, part.decode("utf-8", "replace")) for part, wanted in zip(parts, asked, strict=False)
        )


class Joined(msgspec.Struct, frozen=True):
    """The CSV that was published. It can be read twice.

    Attributes:
        name: For messages.
        file: The open file.
        mapping: Lead field -> column, as given to `publish`.
    """

    name: str
    file: IO[bytes]
    mapping: Mapping[str, str] = {}

    def open(self) -> Sheet:
        """Open it from its beginning. Raises SettingsError if its header is invalid."""
        self.file.seek(0)
        try:
            return open_csv(self.file, self.mapping)
        except ValueError as error:
            raise SettingsError([f"{self.name}: {error}"]) from None


class Export(msgspec.Struct):
    """What was written.

    Attributes:
        lines: As many as the joined file has rows, else as many as `results`.
        results: Lines with a result.
        unreadable: Results that this version cannot read.
        broken: Numbers of unreadable lines of the joined file that were left out: at most ten of `broken_count`.
        broken_count: The number of these lines.
        has_other_fields: A CSV has the fields above 5,000 in its last column.
    """

    lines: int = 0
    results: int = 0
    unreadable: int = 0
    broken: list[int] = msgspec.field(default_factory=list)
    broken_count: int = 0
    has_other_fields: bool = False


async def export(
    settings: Settings,
    wanted: ResultFilter,
    out: IO[str],
    form: Format,
    join: Joined | None,
    stage: Stage,
    say: Callable[[str], None],
    *,
    raw: bool = False,
) -> Export:
    """Write the results to `out`.

    `join`: write all rows of this file, each with its result if it has one. `stage` reports progress, `say` is called
    with a line while Kafka does not respond. `raw`: do not escape CSV cells that a spreadsheet would run as formulas.

    Raises:
        SettingsError: The file's header is invalid.
        TopicsError: A topic is missing.
        BrokerUnavailable: Kafka does not respond.
        StreamAppError: The temporary folder is full.
    """
    if join is not None:
        join.open()  # report errors of the header before reading Kafka
    await kafka_ready(settings, "results" if join is None else "results --join", say)
    with closing(ResultStore()) as store:
        await _read(settings, wanted, store, stage, people=join is not None)
        work = _Export(wanted.since_ms, store, Lines(out, form, raw=raw), stage)
        if join is None:
            work.alone()
        else:
            options = PublishOptions(workspace=wanted.workspace, destination=wanted.destination)
            work.joined(join, Matcher(settings, options, store))
        return work.done


async def results_of(
    settings: Settings, wanted: ResultFilter, on_unreadable: Callable[[str], None]
) -> AsyncGenerator[Result]:
    """Yield the last result of each lead. `on_unreadable` gets a line for each that cannot be read and is left out.

    Raises:
        TopicsError, KafkaRefused, BrokerUnavailable: The topic cannot be read.
        StreamAppError: The temporary folder is full.
    """
    await kafka_ready(settings, "results")
    with closing(ResultStore()) as store:
        await _read(settings, wanted, store, _no_stage, people=False)
        for number in store:
            try:
                result = _result.decode(store.value(number))
            except msgspec.DecodeError:
                on_unreadable(f"a result on {settings.names.enriched} cannot be read by this version")
                continue
            if result.at_ms >= wanted.since_ms:
                yield result


@contextmanager
def _no_stage(what: str, unit: str) -> Iterator[Progress]:
    yield lambda done, total: None


async def _read(settings: Settings, wanted: ResultFilter, store: ResultStore, stage: Stage, *, people: bool) -> None:
    names = settings.names
    with stage("reading results", "offsets") as progress:
        async with topic_reader(settings, progress) as reader:
            async for records in reader.read(names.enriched):
                store.put((record.key, record.value) for record in records if wanted.matches(record.key))
    if not people:
        return
    with stage("reading who is who", "offsets") as progress:
        async with topic_reader(settings, progress) as reader:
            async for records in reader.read(names.state):
                store.put_people(
                    (record.key, [row.removeprefix(b"d/") for row in rows_of(record.value or b"")])
                    for record in records
                    if record.key and record.key.startswith(b"p/")
                )


class _Export:
    def __init__(self, since_ms: int, store: ResultStore, lines: Lines, stage: Stage) -> None:
        self.done = Export()
        self._since_ms = since_ms
        self._store = store
        self._lines = lines
        self._stage = stage

    def alone(self) -> None:
        """Write a line for each result."""
        with self._stage("looking at the results", "results") as progress:
            numbers = array("q", filter(None, self._look(self._store, lambda done: progress(done, len(self._store)))))
        self._write([], repeat(()), numbers)

    def joined(self, join: Joined, matcher: Matcher) -> None:
        """Write a line for each row of the file. The first pass finds the columns of the results, the second writes."""
        size_bytes = os.fstat(join.file.fileno()).st_size
        with self._stage("looking for the results of the rows", "bytes") as progress:
            matches = (matcher.match(row) for row in self._rows(join.open(), self.done))
            numbers = self._look(matches, lambda _: progress(join.file.tell(), size_bytes))
        again = join.open()
        self._write(again.titles, (row.cells for row in self._rows(again, Export())), numbers)

    def _rows(self, sheet: Sheet, done: Export) -> Iterator[Row]:
        for row in sheet.rows:
            if not isinstance(row.draft, Unreadable):
                yield row
                continue
            done.broken_count += 1
            if len(done.broken) < _NAMED_LINES:
                done.broken.append(row.line)

    def _look(self, numbers: Iterable[int], progress: Callable[[int], None]) -> array[int]:
        """Collect the numbers of the results to write (0 for none), and the names of their fields."""
        found = array("q")
        for number in numbers:
            result = self._decoded(number) if number else None
            if result is not None:
                self._lines.learn(result)
            found.append(number if result else 0)
            if len(found) % _PROGRESS_EVERY == 0:
                progress(len(found))
        return found

    def _decoded(self, number: int) -> Result | None:
        try:
            result = _result.decode(self._store.value(number))
        except msgspec.DecodeError:
            self.done.unreadable += 1
            return None
        return result if result.at_ms >= self._since_ms else None

    def _write(self, titles: list[str], rows: Iterable[tuple[str, ...]], numbers: array[int]) -> None:
        self._lines.begin(titles)
        self.done.has_other_fields = self._lines.has_others
        with self._stage("writing", "lines") as progress:
            for number, cells in zip(numbers, rows, strict=False):
                self._lines.write(cells, self._decoded(number) if number else None)
                self.done.lines += 1
                self.done.results += bool(number)
                if self.done.lines % _PROGRESS_EVERY == 0:
                    progress(self.done.lines, len(numbers))


class Matcher:
    """Matches rows to results. `options` has the defaults that were given to `publish`."""

    def __init__(self, settings: Settings, options: PublishOptions, store: ResultStore) -> None:
        self._settings = settings
        self._checker = Checker(settings, options)
        self._store = store

    def match(self, row: Row) -> int:
        """Return the number of the row's result in the store, or 0.

        The search order is: the row's lead id; a lead that counts for the row's person (another row of the same person
        may have been sent); the id that is derived from the person.
        """
        read = row.draft if isinstance(row.draft, Unreadable) else self._checker.read(row.draft)
        if isinstance(read, Unreadable):
            return 0
        lead, store = read[0], self._store
        who, workspace = identify_cleaned(lead), lead.workspace or ""
        destination = self._settings.destination_of(workspace, lead.destination)
        if who is None or destination is None:
            return 0
        place = f"{workspace}/{destination}"
        found = store.of_lead(f"{place}/{who.lead_id}".encode())
        known_by = identifiers(who.people)
        for each in known_by:
            found = found or store.of_person(person_key(workspace, destination, each))
        for each in known_by:
            found = found or store.of_lead(f"{place}/p-{each}".encode())
        return found
