"""The imports in the read model: what is counted of them, and that there are never too many."""

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stream_app.board.read_model import history, store
from stream_app.board.read_model.board_query import BoardQueries
from stream_app.board.read_model.query import Queries
from stream_app.board.read_model.store import ReadModel
from stream_app.client.results.answers import FoundImport
from stream_app.domain.model.messages import ImportSummary
from tests.board.model_records import DAY_MS, NOW_MS, Made, dead_letter, event, flat, sources, take
from tests.support.cpu import exponent

SOURCES = sources()
NAMES = SOURCES.names
SUMMARY = ImportSummary(rows=12, refused=2, leads=10, file="leads.csv", who="jane")


def received(number: int, import_id: str = "march", **more: Any) -> Made:
    return event(NAMES, f"crm-{number}", "received", 1, number, import_id=import_id, **more)


def only(ask: Queries, import_id: str = "march") -> FoundImport:
    (publication,), last = ask.imports("", import_id, None, 10)
    assert last is None
    return publication


def test_the_leads_of_an_import_are_counted_by_column(model: ReadModel, ask: Queries) -> None:
    take(model, received(0, import_summary=SUMMARY), *(received(number) for number in range(1, 6)))
    take(
        model,
        event(NAMES, "crm-0", "sending", 2, 0),
        event(NAMES, "crm-0", "enriched", 3, 0, credits=6),
    )
    take(
        model,
        event(NAMES, "crm-1", "parked", 2, 1, credits=2),
        event(NAMES, "crm-2", "held_budget", 2, 2),
    )
    take(model, event(NAMES, "crm-9", "received", 1, 9))  # of no import
    publication = only(ask)
    assert publication.columns == {
        "enriched": 1,
        "parked": 1,
        "held": 1,
        "under_way": 3,
        "waiting": 4,
    }
    assert publication.rows == 12
    assert publication.refused == 2
    assert publication.published == 10
    assert publication.credits == 8
    assert publication.file == "leads.csv"
    assert publication.who == "jane"
    assert publication.workspace == "acme"
    assert publication.first_ms == NOW_MS + 1
    assert publication.last_ms == NOW_MS + 3
    assert publication.leads == 10
    assert publication.moving == 8


def test_a_name_means_one_import_for_each_workspace(
    model: ReadModel,
    ask: Queries,
    path: Path,
) -> None:
    take(model, received(0), received(1, workspace="globex"))
    publications, _ = ask.imports("", "march", None, 10)
    assert {publication.workspace: publication.columns for publication in publications} == {
        "acme": {"under_way": 1},
        "globex": {"under_way": 1},
    }
    assert {(publication.rows, publication.published) for publication in publications} == {
        (None, None),
    }, "no summary"
    assert [publication.workspace for publication in ask.imports("globex", "", None, 10)[0]] == [
        "globex",
    ]
    counts_of = BoardQueries(path, frozenset()).import_counts
    assert [
        [row.workspace for row in counts_of(name, "march")[1]] for name in ("acme", "globex")
    ] == [
        ["acme"],
        ["globex"],
    ]
    assert counts_of("beta", "march") == counts_of("acme", "april") == (0, [])


def test_the_newest_import_comes_first_and_pages_continue(model: ReadModel, ask: Queries) -> None:
    take(
        model,
        *(received(number, f"i{number}", at_ms=NOW_MS + number // 2) for number in range(5)),
    )
    first, last = ask.imports("", "", None, 3)
    rest, end = ask.imports("", "", last, 3)
    assert [publication.import_id for publication in (*first, *rest)] == [
        "i4",
        "i3",
        "i2",
        "i1",
        "i0",
    ]
    assert end is None


def test_a_rerouted_lead_belongs_to_its_import_once(model: ReadModel, ask: Queries) -> None:
    summary = ImportSummary(rows=2, refused=0, leads=2)
    of_march: dict[str, Any] = {"import_id": "march", "import_summary": summary}
    take(model, event(NAMES, "crm-1", "received", 2, **of_march))
    take(model, event(NAMES, "crm-1", "rerouted", 1, **of_march))
    assert only(ask).columns == {"under_way": 1, "waiting": 1}


def test_an_import_goes_with_its_last_record(model: ReadModel, ask: Queries, path: Path) -> None:
    take(model, received(0, at_ms=NOW_MS - 400 * DAY_MS), received(1, "april"))
    model.sweep(NOW_MS)
    assert [publication.import_id for publication in ask.imports("", "", None, 10)[0]] == ["april"]
    take(model, received(2, "march"))
    assert only(ask).columns == {"under_way": 1}
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT sum(leads) FROM import_counts").fetchone() == (2,)


def duplicate(number: int, import_id: str, **more: Any) -> Made:
    return event(NAMES, f"crm-{number}", "duplicate", 1, number, import_id=import_id, **more)


def row_again(number: int, offset: int) -> Made:
    """A later row of a lead that an earlier row of the import has named."""
    return event(NAMES, f"crm-{number}", "duplicate", 1, offset, import_id="march")


def test_rows_leads_and_duplicates_of_an_import_add_up(model: ReadModel, ask: Queries) -> None:
    """Of 150 rows, four name leads of other rows, and two name leads that were sent before."""
    before = (received(number, "february", origin=f"{NAMES.bulk}/0/{number}") for number in (3, 4))
    take(model, *before)
    summary = ImportSummary(rows=151, refused=1, leads=150)
    rows = [received(number, import_summary=summary if not number else None) for number in range(3)]
    rows += [duplicate(number, "march") for number in (3, 4)]
    rows += [received(number) for number in range(5, 145)]
    rows += [row_again(number - 145, number) for number in range(145, 149)]
    take(model, *rows, at=10)
    publication = only(ask)
    assert publication.columns == {"under_way": 143, "duplicate": 6, "waiting": 1}
    assert publication.leads == 144
    assert publication.duplicates == 6
    assert publication.repeats == 4
    assert publication.records == publication.published == 150
    take(model, event(NAMES, "crm-9", "enriched", 2, 9, credits=6), at=200)
    take(model, event(NAMES, "crm-9", "received", 1, 149, import_id="march"), at=201)
    forced = only(ask)
    assert forced.columns == {"under_way": 143, "duplicate": 7}, "sent again with --force"
    assert forced.records == 150
    assert only(ask, "february").duplicates == 0


def test_what_was_sent_back_is_no_duplicate(model: ReadModel, ask: Queries) -> None:
    """The copy of a dead letter has a record of its own, and its lead is the one that it was."""
    take(model, event(NAMES, "crm-1", "rejected_invalid", 1, 1, import_id="march"))
    again = {"import_id": "march", "dead_letter": f"{NAMES.dlq}/0/7"}
    take(model, event(NAMES, "crm-1", "received", 1, 2, **again), at=1)
    publication = only(ask)
    assert publication.columns == {"under_way": 1}
    assert publication.duplicates == 0
    take(model, row_again(1, 3), at=2)
    assert only(ask).duplicates == 1


def test_duplicates_are_forgotten_with_their_records(model: ReadModel, ask: Queries) -> None:
    take(model, received(1), row_again(1, 2), received(3, at_ms=NOW_MS + 1))
    take(model, event(NAMES, "crm-3", "enriched", 2, 3, at_ms=NOW_MS + 50 * DAY_MS), at=3)
    assert only(ask).duplicates == 1
    model.sweep(NOW_MS + 60 * DAY_MS)
    assert only(ask).columns == {"enriched": 1}
    assert only(ask).duplicates == 0


def test_imports_without_leads_under_way_make_room(
    model: ReadModel,
    ask: Queries,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Duplicates are free: a producer may name a new import with each of them."""
    monkeypatch.setattr(history, "MAX_IMPORTS", 3)
    take(
        model,
        received(0, "paid", at_ms=NOW_MS - 9),
        event(NAMES, "crm-0", "enriched", 2, 0, credits=6),
    )
    take(model, received(1, "held", at_ms=NOW_MS - 8), event(NAMES, "crm-1", "deferred", 2, 1))
    for number in range(2, 20):
        take(model, duplicate(number, f"forged-{number}", at_ms=NOW_MS + number))
    assert [publication.import_id for publication in ask.imports("", "", None, 10)[0]] == [
        "forged-19",
        "held",
        "paid",
    ]
    take(model, *(received(number, "new", at_ms=NOW_MS + 30) for number in range(20, 23)))
    assert only(ask, "new").columns == {"under_way": 3}
    assert only(ask, "paid").columns == {"enriched": 1}
    take(model, event(NAMES, "crm-19", "suppressed", 2, 19))  # of an import that made room
    assert only(ask, "new").columns == {"under_way": 3}
    with sqlite3.connect(path) as db:
        known = "(SELECT id FROM imports)"
        assert db.execute(
            f"SELECT count(*) FROM import_counts WHERE import NOT IN {known}",
        ).fetchone() == (0,)
        assert db.execute(
            f"SELECT count(*) FROM records WHERE imported > 0 AND imported NOT IN {known}",
        ).fetchone() == (0,)


def test_imports_make_room_for_others_not_for_each_other_at_once(
    model: ReadModel,
    ask: Queries,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What comes in one batch stays: the leads of a new import are written behind its name."""
    monkeypatch.setattr(history, "MAX_IMPORTS", 2)
    take(model, *(received(number, f"i{number}") for number in range(4)))
    publications, _ = ask.imports("", "", None, 10)
    assert [(publication.import_id, publication.columns) for publication in publications] == [
        (f"i{n}", {"under_way": 1}) for n in (1, 0)
    ]
    take(model, event(NAMES, "crm-0", "parked", 2, 0))
    take(model, event(NAMES, "crm-0", "replayed", 3, 0), received(5, "next"))
    assert {publication.import_id for publication in ask.imports("", "", None, 10)[0]} == {
        "i0",
        "i1",
    }


def test_the_first_summary_of_an_import_counts(model: ReadModel, ask: Queries) -> None:
    forged = ImportSummary(rows=9_999, refused=0, leads=9_999, file="other.csv", who="mallory")
    take(model, received(0, import_summary=SUMMARY), duplicate(1, "march", import_summary=forged))
    take(model, duplicate(2, "march", import_summary=forged))
    take(model, duplicate(3, "march", import_summary=forged, workspace="globex"))
    publications = {
        publication.workspace: publication for publication in ask.imports("", "march", None, 10)[0]
    }
    acme = publications["acme"]
    assert acme.rows == 12
    assert acme.refused == 2
    assert acme.published == 10
    assert acme.file == "leads.csv"
    assert acme.who == "jane"
    assert publications["globex"].who == "mallory", "of another workspace"


def _rejected(number: int) -> list[Made]:
    about = {"origin": f"{NAMES.leads}/0/{number}", "seq": "1", "lead_id": "crm-1"}
    letter = dead_letter(NAMES.dlq, "http_422", NOW_MS, number, **about, disposition="poison")
    return [event(NAMES, "crm-1", "rejected_invalid", 1, number), letter]


@pytest.mark.parametrize(
    "copy",
    [
        lambda number: [event(NAMES, "crm-1", "duplicate", 1, number, import_id=f"i{number}")],
        lambda number: [event(NAMES, "crm-1", "suppressed", 1, number, import_id=f"i{number}")],
        lambda number: [event(NAMES, "crm-1", "suppressed", 1, number)],
        lambda number: [
            event(NAMES, "crm-1", "callback_unmatched", 1, origin=f"{NAMES.callbacks}/0/{number}"),
        ],
        _rejected,
    ],
    ids=["imported", "suppressed in imports", "suppressed", "called back", "rejected"],
)
def test_a_lead_that_comes_thousands_of_times_costs_no_more_than_as_many_leads(
    copy: Callable[[int], list[Made]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A producer may publish one lead any number of times, under any import ids, and each of its
    batches is small.

    So is each piece in which they are forgotten.
    """
    monkeypatch.setattr(store, "_LOOKED_AT", 50)

    def copies(n: int) -> list[list[Made]]:
        return [
            flat(copy(number) for number in range(first, first + 50)) for first in range(1, n, 50)
        ]

    def apply(batches: list[list[Made]]) -> None:
        model = ReadModel(tmp_path / f"{time.monotonic_ns()}.sqlite", SOURCES)
        take(model, *_rejected(0))
        for number, batch in enumerate(batches, 1):
            take(model, *batch, at=50 * number)
        for _ in range(len(batches) + 2):
            model.sweep(NOW_MS + 60 * DAY_MS)
        assert model._db.execute("SELECT count(*) FROM records").fetchone() == (0,)
        model.close()

    grows, took_s = exponent(apply, copies, 4_000, 1.3)
    assert grows <= 1.3, f"the exponent is {grows:.2f}, {took_s:.2f} s for the largest"
