"""Exports `leads.enriched`: each lead's last result, alone or joined to the published file's rows.

    leads.enriched (and the people of the state) -> a store on disk -> the result of each row ->
    lines

Memory does not grow with the results, except 8 bytes a line: the store is a temporary SQLite
database, of which 64 MiB are in memory and the rest in an unnamed file in TMPDIR. No other user can
open the file, and it disappears with the process.
"""

from __future__ import annotations

import csv
import os
import re
import sqlite3
from array import array
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import repeat
from typing import IO, Final, Literal

import msgspec

from stream_app.client.publish.leads import Checker, PublishOptions, no_workspace
from stream_app.client.publish.rows import FileRow, Sheet, open_csv
from stream_app.config import Settings
from stream_app.config.kafka_access import kafka_ready, topic_reader
from stream_app.domain.lead.identity import identifiers, identify, person_key, rows_of
from stream_app.domain.lead.read import Unreadable
from stream_app.domain.model.errors import SettingsError, StreamAppError
from stream_app.domain.model.messages import Result, Scalar
from stream_app.domain.model.text import for_json, for_spreadsheet
from stream_app.domain.model.untrusted import UNREADABLE
from stream_app.kafka.readers import Progress

_CACHE_KIB: Final = 65_536


class ResultStore:
    """Results and people by the hashes of their keys.

    Every method may raise StreamAppError (the disk is full).
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect("")
        for statement in (
            f"PRAGMA cache_size = -{_CACHE_KIB}",
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            """CREATE TABLE results (
                id INTEGER PRIMARY KEY,
                key BLOB NOT NULL UNIQUE,
                value BLOB NOT NULL
            )""",
            "CREATE TABLE people (key BLOB, lead BLOB, PRIMARY KEY (key, lead)) WITHOUT ROWID",
        ):
            self._db.execute(statement)

    def close(self) -> None:
        self._db.close()

    def put(self, results: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Add results by the key of `leads.enriched`, in the order of the topic.

        None deletes the result.
        """
        upsert = (
            "INSERT INTO results (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET "
            "value = excluded.value"
        )
        with _room():
            for key, value in results:
                if value is None:
                    self._db.execute("DELETE FROM results WHERE key = ?", (_hash(key),))
                else:
                    self._db.execute(upsert, (_hash(key), value))

    def put_people(self, people: Iterable[tuple[bytes, Iterable[bytes]]]) -> None:
        """Add the leads that count for persons.

        `people` has the alias key of each person with the keys of these leads' results.
        """
        with _room():
            for key, leads in people:
                person = _hash(key)
                self._db.execute("DELETE FROM people WHERE key = ?", (person,))
                pairs = [(person, _hash(lead)) for lead in leads]
                self._db.executemany("INSERT OR IGNORE INTO people VALUES (?, ?)", pairs)

    def of_lead(self, key: bytes) -> int:
        """Return the number of the result under that key, or 0."""
        return self._number("SELECT id FROM results WHERE key = ?", key)

    def of_person(self, key: bytes) -> int:
        """Return the number of the last result of the leads that count for that person, or 0."""
        of_leads = "SELECT lead FROM people WHERE key = ?"
        return self._number(
            f"SELECT id FROM results WHERE key IN ({of_leads}) ORDER BY id DESC LIMIT 1",
            key,
        )

    def value(self, number: int) -> bytes:
        with _room():
            return bytes(
                self._db.execute("SELECT value FROM results WHERE id = ?", (number,)).fetchone()[0],
            )

    def __len__(self) -> int:
        with _room():
            return int(self._db.execute("SELECT count(*) FROM results").fetchone()[0])

    def __iter__(self) -> Iterator[int]:
        """Iterate over the numbers of all results, in the order of each lead's first result."""
        with _room():
            for (number,) in self._db.execute("SELECT id FROM results ORDER BY id"):
                yield number

    def _number(self, question: str, key: bytes) -> int:
        with _room():
            row = self._db.execute(question, (_hash(key),)).fetchone()
            return 0 if row is None else int(row[0])


def _hash(key: bytes) -> bytes:
    return blake2b(key, digest_size=16).digest()


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StreamAppError(
            f"no room for the results in the temporary folder ({error}): "
            "set TMPDIR to a larger one",
        ) from error


ExportFormat = Literal["csv", "jsonl"]

_META: Final = ("lead_id", "workspace", "destination", "source", "version", "at", "age_s")
MAX_FIELD_COLUMNS: Final = 5_000
"""Fields that have a column of their own: those that come first."""
OTHER_FIELDS: Final = "other_fields"
"""The column with all other fields of a result, as a JSON object."""
# client/publish/rows.py turns bytes that are not UTF-8 into these.
_UNDECODABLE: Final = re.compile("[\ud800-\udfff]")

_json: Final = msgspec.json.Encoder()


class Lines:
    """Call `learn` with every result, then `begin`, then `write` once for each line.

    CSV: the row's own columns, then the result's metadata, then its fields: those above
    `MAX_FIELD_COLUMNS` together in one column, so that no line grows with the names that other
    results have. A duplicate name gets the prefix `result_`. No title or value of a result can run
    as a formula in a spreadsheet, unless `raw`; the row's own columns stay unchanged. JSON Lines:
    the result as on Kafka; with a row, an object of `row` and `result`.
    """

    def __init__(self, out: IO[str], form: ExportFormat, *, raw: bool = False) -> None:
        self._out = out
        self._safe: Callable[[str], str] = str if raw else for_spreadsheet
        self._form = form
        self._csv = csv.writer(out, lineterminator="\n")
        self._fields: dict[str, None] = {}
        self.has_others = False
        self._titles: list[str] = []

    def learn(self, result: Result) -> None:
        """Note a result that will be written."""
        if self._form == "csv":
            for name in result.fields:
                if len(self._fields) < MAX_FIELD_COLUMNS:
                    self._fields[name] = None
                elif name not in self._fields:
                    self.has_others = True

    def begin(self, titles: list[str]) -> None:
        """Write the header.

        `titles` are the titles of the rows' own columns, or empty if there are no rows.
        """
        self._titles = [_clean(title) for title in titles]
        if self._form == "csv":
            names = list(self._titles)
            for name in (*_META, *self._fields, *([OTHER_FIELDS] if self.has_others else [])):
                while name in names:
                    name = f"result_{name}"
                names.append(self._safe(name))
            self._csv.writerow(names)

    def write(self, cells: tuple[str, ...], result: Result | None) -> None:
        """Write one line. `cells` are the row's; missing ones at its end are blank."""
        own = [_clean(cell) for cell in cells[: len(self._titles)]]
        own += [""] * (len(self._titles) - len(own))
        if self._form == "csv":
            self._csv.writerow(own + self._result_cells(result))
            return
        line: object = result
        if self._titles:
            line = {"row": dict(zip(self._titles, own, strict=True)), "result": result}
        self._out.write(for_json(_json.encode(line).decode()) + "\n")

    def _result_cells(self, result: Result | None) -> list[str]:
        if result is None:
            return [""] * (len(_META) + len(self._fields) + self.has_others)
        at = datetime.fromtimestamp(result.at_ms / 1000, UTC).isoformat(timespec="milliseconds")
        known = (
            result.lead_id,
            result.workspace,
            result.destination,
            result.source,
            result.version,
            at,
            result.age_s,
        )
        cells = [self._cell(value) for value in (*known, *map(result.fields.get, self._fields))]
        if self.has_others:
            others = {
                name: value for name, value in result.fields.items() if name not in self._fields
            }
            cells.append(for_json(_json.encode(others).decode()) if others else "")
        return cells

    def _cell(self, value: Scalar) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        return "" if value is None else self._safe(str(value))


def _clean(text: str) -> str:
    return text if text.isascii() else _UNDECODABLE.sub("\ufffd", text)


Stage = Callable[[str, str], AbstractContextManager[Progress]]
"""Called with the name of a stage and its unit.

Returns a context manager that yields the progress callback.
"""

_NAMED_LINES: Final = 10
_PROGRESS_EVERY: Final = 1_000

_result: Final = msgspec.json.Decoder(Result)


class ResultFilter(msgspec.Struct, frozen=True):
    """Which results to export; all conditions apply.

    `since_ms` (epoch ms) leaves out earlier ones.
    """

    workspace: str | None = None
    destination: str | None = None
    since_ms: int = 0

    def matches(self, key: bytes | None) -> bool:
        """True if the conditions match a key of `leads.enriched`."""
        parts = (key or b"").split(b"/", 2)
        asked = (self.workspace, self.destination)
        return len(parts) == 3 and all(
            wanted in (None, part.decode("utf-8", "replace"))
            for part, wanted in zip(parts, asked, strict=False)
        )


class Joined(msgspec.Struct, frozen=True):
    """The CSV that was published. It can be read twice."""

    name: str  # for messages
    file: IO[bytes]
    mapping: Mapping[str, str] = {}  # lead field -> column, as given to `publish`

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
        broken: Numbers of unreadable lines of the joined file that were left out: at most ten of
            `broken_count`.
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
    form: ExportFormat,
    join: Joined | None,
    stage: Stage,
    say: Callable[[str], None],
    *,
    raw: bool = False,
) -> Export:
    """Write the results to `out`.

    `join` is a file of which all rows are written, each with its result if it has one. `stage`
    reports progress, and `say` is called with a line while Kafka does not respond. With `raw`, CSV
    cells that a spreadsheet would run as formulas are not escaped.

    Raises:
        SettingsError: The file's header is invalid, or no row of it can name its workspace.
        TopicsError: A topic is missing.
        BrokerUnavailable: Kafka does not respond.
        StreamAppError: The temporary folder is full.
    """
    if join is not None:
        names = join.open().names  # report errors of the header before reading Kafka
        if missing := no_workspace(settings, names, wanted.workspace):
            raise SettingsError([f"{join.name}: {missing}"])
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
    settings: Settings,
    wanted: ResultFilter,
    on_unreadable: Callable[[str], None],
) -> AsyncGenerator[Result]:
    """Yield the last result of each lead.

    `on_unreadable` gets a line for each that cannot be read and is left out.

    Raises:
        TopicsError, KafkaRefused, BrokerUnavailable: The topic cannot be read.
        StreamAppError: The temporary folder is full.
    """
    await kafka_ready(settings, "results")
    with closing(ResultStore()) as store:
        await _read(settings, wanted, store, no_stage, people=False)
        for number in store:
            try:
                result = _result.decode(store.value(number))
            except UNREADABLE:
                on_unreadable(
                    f"a result on {settings.names.enriched} cannot be read by this version",
                )
                continue
            if result.at_ms >= wanted.since_ms:
                yield result


@contextmanager
def no_stage(what: str, unit: str) -> Iterator[Progress]:
    """A stage that reports nothing."""
    yield lambda done, total: None


async def _read(
    settings: Settings,
    wanted: ResultFilter,
    store: ResultStore,
    stage: Stage,
    *,
    people: bool,
) -> None:
    names = settings.names
    with stage("reading results", "offsets") as progress:
        async with topic_reader(settings, progress) as reader:
            async for records in reader.read(names.enriched):
                store.put(
                    (record.key, record.value) for record in records if wanted.matches(record.key)
                )
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
        with self._stage("looking at the results", "results") as progress:
            numbers = array(
                "q",
                filter(
                    None,
                    self._look(self._store, lambda done: progress(done, len(self._store))),
                ),
            )
        self._write([], repeat(()), numbers)

    def joined(self, join: Joined, matcher: Matcher) -> None:
        """Write a line for each row of the file.

        The first pass finds the columns of the results, the second writes.
        """
        size_bytes = os.fstat(join.file.fileno()).st_size
        with self._stage("looking for the results of the rows", "bytes") as progress:
            matches = (matcher.match(row) for row in self._rows(join.open(), self.done))
            numbers = self._look(matches, lambda _: progress(join.file.tell(), size_bytes))
        again = join.open()
        self._write(again.titles, (row.cells for row in self._rows(again, Export())), numbers)

    def _rows(self, sheet: Sheet, done: Export) -> Iterator[FileRow]:
        for row in sheet.rows:
            if not isinstance(row.draft, Unreadable):
                yield row
                continue
            done.broken_count += 1
            if len(done.broken) < _NAMED_LINES:
                done.broken.append(row.line)

    def _look(self, numbers: Iterable[int], progress: Callable[[int], None]) -> array[int]:
        """Collect the numbers of the results to write (0: none), and the names of their fields."""
        matches = array("q")
        for number in numbers:
            result = self._decoded(number) if number else None
            if result is not None:
                self._lines.learn(result)
            matches.append(number if result else 0)
            if len(matches) % _PROGRESS_EVERY == 0:
                progress(len(matches))
        return matches

    def _decoded(self, number: int) -> Result | None:
        try:
            result = _result.decode(self._store.value(number))
        except UNREADABLE:
            self.done.unreadable += 1
            return None
        return result if result.at_ms >= self._since_ms else None

    def _write(
        self,
        titles: list[str],
        rows: Iterable[tuple[str, ...]],
        numbers: array[int],
    ) -> None:
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

    def match(self, row: FileRow) -> int:
        """Return the number of the row's result in the store, or 0.

        The search order is: the row's lead id; a lead that counts for the row's person (another row
        of the same person may have been sent); the id that is derived from the person.
        """
        read = row.draft if isinstance(row.draft, Unreadable) else self._checker.read(row.draft)
        if isinstance(read, Unreadable):
            return 0
        lead = read[0]
        store = self._store
        who = identify(lead, cleaned=True)
        workspace = lead.workspace
        assert workspace is not None  # read_lead names it
        destination = self._settings.destination_of(workspace, lead.destination)
        if who is None or destination is None:
            return 0
        place = f"{workspace}/{destination}"
        number = store.of_lead(f"{place}/{who.lead_id}".encode())
        known_by = identifiers(who.people)
        for person in known_by:
            number = number or store.of_person(person_key(workspace, destination, person))
        for person in known_by:
            number = number or store.of_lead(f"{place}/p-{person}".encode())
        return number
