"""The lists of the board: every record once, newest first, for the price of one page."""

import random
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from stream_app.board.read_model.board_query import BoardQueries, DeadLetterRow
from stream_app.board.read_model.query import ListPlace
from stream_app.board.read_model.store import ReadModel
from stream_app.client.results.answers import Cause
from stream_app.domain.books.records import COLUMN, column
from stream_app.domain.model.messages import RESEND, Status
from tests.board.model_records import (
    DAY_MS,
    NOW_MS,
    Made,
    dead_letter,
    event,
    person,
    sources,
    take,
)
from tests.support.narrow import present

NAMES = sources().names
FINAL = frozenset({"quiet"})
"""Destinations without callbacks."""


def fill(path: Path, leads: int) -> list[tuple[int, int, str, str]]:
    """Write records of two workspaces and of none in all statuses, many at a time.

    Returns them, newest first.
    """
    chance = random.Random(3)
    made = list[Made]()
    known = []
    for offset in range(leads):
        status: Status = chance.choice(get_args(Status))
        workspace = chance.choice(("acme", "globex", ""))
        destination = chance.choice(("people", "quiet"))
        at_ms = NOW_MS + chance.randrange(leads // 3)
        values = {
            "workspace": workspace,
            "destination": destination,
            "at_ms": at_ms,
            "import_id": "i" * (offset % 2),
        }
        made.append(event(sources().names, f"crm-{offset}", status, 1, offset, **values))
        known.append((at_ms, offset, workspace, column(status, final=destination in FINAL)))
    model = ReadModel(path, sources())
    take(model, *made)
    model.close()
    return sorted(known, reverse=True)


def pages(
    queries: BoardQueries,
    workspace: str | None,
    statuses: tuple[str, ...],
    final: bool | None,
    imported: int = 0,
) -> Iterator[int]:
    after: ListPlace | None = None
    while rows := queries.records(workspace, statuses, after, 7, final=final, imported=imported):
        yield from (int(row.origin.rpartition("/")[2]) for row in rows)
        after = rows[-1].place


Filled = tuple[BoardQueries, list[tuple[int, int, str, str]]]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """A read model, and the records that it has."""
    path = tmp_path_factory.mktemp("model") / "model"
    known = fill(path, 600)
    return BoardQueries(path, FINAL), known


@pytest.mark.parametrize("workspace", [None, "", "globex"])
@pytest.mark.parametrize("chosen", ["", "under_way", "accepted_final", "parked"])
def test_a_list_has_every_record_once_newest_first(
    filled: Filled,
    workspace: str | None,
    chosen: str,
) -> None:
    queries, known = filled
    statuses = tuple(status for status, name in COLUMN.items() if name == chosen)
    if chosen == "accepted_final":
        statuses = ("accepted", "confirmed")
    final = None if not chosen else chosen == "accepted_final"
    wanted = [n for _, n, name, col in known if workspace in (None, name) and chosen in ("", col)]
    assert list(pages(queries, workspace, statuses, final)) == wanted
    sums = queries.status_sums(workspace)
    assert sum(count.leads for count in sums if chosen in ("", count.column)) == len(wanted)
    assert {count.workspace for count in sums} == {workspace or ""}
    if workspace:
        number, sums = queries.import_counts(workspace, "i")
        wanted = [
            n
            for _, n, name, col in known
            if n % 2 and name == workspace and col and chosen in ("", col)
        ]
        assert list(pages(queries, None, statuses, final, number)) == wanted
        assert sum(count.leads for count in sums if chosen in ("", count.column)) == len(wanted)


class Counting(BoardQueries):
    """Counts the steps of SQLite's virtual machine, in hundreds."""

    steps = 0

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        def count() -> None:
            self.steps += 1

        with super()._reading() as db:
            db.set_progress_handler(count, 100)
            yield db


@pytest.fixture(scope="module")
def by_size(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Read models, by the number of their leads."""
    folder = tmp_path_factory.mktemp("models")
    paths = {leads: folder / str(leads) for leads in (3_000, 12_000)}
    for leads, path in paths.items():
        fill(path, leads)
    return paths


@pytest.mark.parametrize(
    ("workspace", "statuses", "final"),
    [
        (None, (), None),
        (None, ("accepted", "sending", "refused"), False),
        (None, ("accepted",), True),
        ("globex", (), None),
        ("globex", ("accepted", "sending"), False),
    ],
)
def test_a_page_costs_the_same_with_many_leads(
    by_size: dict[int, Path],
    workspace: str | None,
    statuses: tuple[str, ...],
    final: bool | None,
) -> None:
    steps = []
    for leads, path in by_size.items():
        queries = Counting(path, FINAL)
        for after in (None, ListPlace(NOW_MS + leads // 6, 1 << 50)):
            queries.records(workspace, statuses, after, 20, final=final)
        queries.status_sums(workspace)
        steps.append(queries.steps)
    assert steps[1] <= steps[0] * 1.2 + 5


def test_the_person_of_a_lead_is_found_without_reading_all_people(tmp_path: Path) -> None:
    steps = []
    for people in (300, 3_000):
        path = tmp_path / str(people)
        model = ReadModel(path, sources())
        take(model, *(person(NAMES, f"hash-{number}", f"crm-{number}") for number in range(people)))
        take(model, person(NAMES, "two", "crm-a", "d/acme/people/crm-b"))
        model.close()
        queries = Counting(path, FINAL)
        assert [queries.people_of(name) for name in ("crm-7", "crm-b")] == [["hash-7"], ["two"]]
        steps.append(queries.steps)
    assert steps[1] <= steps[0] + 1


def dead_letter_at(number: int, reason: str, at_ms: int) -> Made:
    letter = dead_letter(NAMES.dlq, reason, at_ms, origin=f"{NAMES.leads}/0/{number}")
    return msgspec.structs.replace(letter, offset=number)


def listed(queries: BoardQueries, cause: Cause, since_ms: int = 0) -> list[DeadLetterRow]:
    letters: list[DeadLetterRow] = []
    while rows := queries.dead_letters_of(
        NAMES.dlq,
        cause,
        since_ms,
        letters[-1].place if letters else None,
        7,
        None,
    ):
        letters += rows
    return letters


def test_the_dead_letters_of_a_cause_are_as_many_as_it_counts(tmp_path: Path) -> None:
    path = tmp_path / "model"
    chance = random.Random(5)
    made = [
        dead_letter_at(n, chance.choice(("http_503", "http_422")), NOW_MS - chance.randrange(99))
        for n in range(60)
    ]
    old = [dead_letter_at(60 + n, "http_503", NOW_MS - 20 * DAY_MS) for n in range(9)]
    model = ReadModel(path, sources())
    take(model, *made, *old)
    take(model, event(NAMES, "crm-3", "parked", 1, 3), dead_letter(NAMES.parked, "http_503"))
    queries = BoardQueries(path, FINAL)
    letters, many = queries.causes_after(NAMES.dlq, None, 0, 10)
    causes = letters.causes
    assert (letters.written, many) == (sum(cause.written for cause in causes), 2) == (69, 2)
    assert queries.causes_after(NAMES.dlq, None, 1, 10)[0].causes == causes[1:]
    for cause in causes:
        rows = listed(queries, cause)
        assert len({row.record for row in rows}) == len(rows) == cause.written
        places = [(row.place.at_ms, row.place.record) for row in rows]
        assert places == sorted(places, reverse=True)
        assert len(listed(queries, cause, NOW_MS - 50)) == sum(
            row.place.at_ms >= NOW_MS - 50 for row in rows
        )
    rows = [row for cause in causes for row in listed(queries, cause)]
    (known,) = [row for row in rows if row.lead_id]
    assert known.lead_id == "crm-3"
    assert known.status == "parked"
    assert known.origin == f"{NAMES.leads}/0/3"
    assert known.record == f"{NAMES.dlq}/0/3"
    model.sweep(NOW_MS)
    assert len(listed(queries, causes[0])) + len(listed(queries, causes[1])) == 60, (
        "what Kafka deletes goes here, too"
    )
    model.close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM letters").fetchone() == (61,)


def test_a_cause_that_went_and_came_back_has_only_its_new_dead_letters(tmp_path: Path) -> None:
    model = ReadModel(tmp_path / "model", sources())
    take(
        model,
        dead_letter_at(0, "http_503", NOW_MS - 30 * DAY_MS),
        dead_letter_at(1, "http_422", NOW_MS),
    )
    model.sweep(NOW_MS)
    take(model, dead_letter_at(2, "http_503", NOW_MS))
    model.close()
    queries = BoardQueries(tmp_path / "model", FINAL)
    letters, many = queries.causes_after(NAMES.dlq, "acme", 0, 10)
    assert many == 2
    assert [[row.record for row in listed(queries, cause)] for cause in letters.causes] == [
        [f"{NAMES.dlq}/0/1"],
        [f"{NAMES.dlq}/0/2"],
    ]


def test_a_cause_has_its_hours_of_a_day_and_an_unknown_one_nothing(tmp_path: Path) -> None:
    model = ReadModel(tmp_path / "model", sources())
    first_s = NOW_MS // 3_600_000 * 3_600
    made = [
        dead_letter_at(n, "http_503", (first_s + n * 3_600 + 5) * 1_000) for n in (0, 1, 26, 27)
    ]
    take(model, *made, dead_letter_at(9, "http_422", (first_s + 3_600) * 1_000))
    model.close()
    queries = BoardQueries(tmp_path / "model", FINAL)
    known = Cause("failed", "acme", "people", "http_503", "")
    unknown = Cause("failed", "acme", "people", "http_500", "")
    hours = [(first_s + n * 3_600, 1) for n in (1, 26)]
    assert queries.dead_letter_hours(NAMES.dlq, [known, unknown], first_s + 3_700) == [hours, []]
    assert queries.cause(NAMES.dlq, unknown) is None
    cause = present(queries.cause(NAMES.dlq, known))
    assert cause.written == 4
    assert cause.first_ms == made[0].timestamp
    assert cause.last_ms == made[-1].timestamp


def test_a_page_of_dead_letters_costs_the_same_with_many_of_them(tmp_path: Path) -> None:
    steps = []
    for many in (1_000, 4_000):
        model = ReadModel(tmp_path / str(many), sources())
        take(model, *(dead_letter_at(n, "http_503", NOW_MS + n) for n in range(many)))
        model.close()
        queries = Counting(tmp_path / str(many), FINAL)
        cause = Cause("failed", "acme", "people", "http_503", "")
        for after in (None, ListPlace(NOW_MS + many // 2, 1 << 60)):
            assert len(queries.dead_letters_of(NAMES.dlq, cause, 0, after, 20, None)) == 20
        steps.append(queries.steps)
    assert steps[1] <= steps[0] * 1.2 + 5


def test_the_records_of_a_lead_and_what_was_sent_again_are_listed(tmp_path: Path) -> None:
    model = ReadModel(tmp_path / "model", sources())
    take(model, *(event(NAMES, "crm-1", "duplicate", 1, number) for number in range(9)))
    again = [
        event(NAMES, f"crm-{n}", "replayed", 2, n, reason=RESEND, at_ms=NOW_MS - n * DAY_MS)
        for n in (31, 32, 50)
    ]
    late = event(NAMES, "crm-31", "callback_duplicate", 1, 61, at_ms=NOW_MS + DAY_MS)
    take(model, *again, late, event(NAMES, "crm-5", "replayed", 2, 60, reason="http_503"))
    take(model, person(NAMES, "hash", "crm-31", "d/acme/people/crm-1"))
    queries = BoardQueries(tmp_path / "model", FINAL)
    assert [row.status for row in queries.now_of(queries.leads_of("hash"))] == [
        "duplicate",
        "replayed",
    ], "newest first"
    many, first = queries.records_of_lead("crm-1", None, 5)
    _, rest = queries.records_of_lead("crm-1", first[-1].place, 5)
    assert many == 9
    assert len({row.origin for row in (*first, *rest)}) == 9
    assert [row.lead_id for row in queries.resent(None, None, 9)] == ["crm-31", "crm-32", "crm-50"]
    model.sweep(NOW_MS)
    days = queries.days("")
    assert [
        (day.resent, [row.lead_id for row in queries.resent(day.at_s, None, 9)]) for day in days
    ] == [
        (1, [""]),  # its record is older than events are kept
        (1, [""]),
    ]
    assert len(queries.resent(None, None, 9)) == sum(day.resent for day in days)
    model.close()


def test_the_money_of_lanes_is_of_each_destination_the_most_credits_first(tmp_path: Path) -> None:
    model = ReadModel(tmp_path / "model", sources())
    spent = (
        ("acme", "people", 6),
        ("acme", "firms", 9),
        ("beta", "people", 7),
        ("acme", "people", 2),
    )
    take(
        model,
        *(
            event(
                NAMES,
                f"crm-{number}",
                "enriched",
                1,
                number,
                workspace=workspace,
                destination=destination,
                credits=credits_,
            )
            for number, (workspace, destination, credits_) in enumerate(spent)
        ),
    )
    queries = BoardQueries(tmp_path / "model", FINAL)
    for workspace, expected in (
        (None, [("acme", "firms", 9), ("acme", "people", 8), ("beta", "people", 7)]),
        ("acme", [("acme", "firms", 9), ("acme", "people", 8)]),
    ):
        rows = queries.lanes_money(workspace, 0, 1 << 62)
        assert [(row.workspace, row.destination, row.credits) for row in rows] == expected
    model.close()


def test_a_snapshots_queries_see_one_state_over_one_connection(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "model.sqlite"
    fill(path, 30)
    queries = BoardQueries(path, FINAL)
    model = ReadModel(path, sources())
    opened = 0
    connect = sqlite3.connect

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal opened
        opened += 1
        return connect(*args, **options)

    monkeypatch.setattr(sqlite3, "connect", counted)

    def leads() -> int:
        return sum(count.leads for count in queries.status_sums(None))

    with queries.snapshot():
        before = leads()
        take(model, event(sources().names, "crm-new", "received", 1, 1_000))
        with ThreadPoolExecutor(1) as thread:
            assert thread.submit(leads).result() == before + 1, (
                "another thread has its own connection"
            )
        assert leads() == before
        assert len(queries.status_counts()) > 0
        assert queries.lane("acme", NOW_MS) is None
    assert opened == 2
    assert leads() == before + 1
    with queries.snapshot():
        assert leads() == before + 1
    model.close()


def test_a_snapshot_ends_with_an_error_and_opens_no_file_without_a_query(tmp_path: Path) -> None:
    queries = BoardQueries(tmp_path / "nothing.sqlite", FINAL)
    with queries.snapshot():
        pass
    for _ in range(2):
        with pytest.raises(sqlite3.OperationalError), queries.snapshot():
            queries.unreadable()
    fill(tmp_path / "nothing.sqlite", 3)
    with queries.snapshot():
        assert queries.unreadable() == []
    assert queries.status_sums(None) != []
