"""The readings of Clay's balance in the read model: one an hour, and what is computed from them."""

import sqlite3
from pathlib import Path

import pytest

from stream_app.board.read_model.query import Queries
from stream_app.board.read_model.store import ReadModel
from stream_app.client.results.answers import Bill
from stream_app.domain.books.bill import billed_days
from stream_app.domain.limits.balance import Booked, Reading
from tests.board.model_records import DAY_MS, NOW_MS, lane, sources, take

NAMES = sources().names
HOUR_MS = 3_600_000
BEGIN_MS = NOW_MS // DAY_MS * DAY_MS


def read(number: int, workspace: str = "acme") -> Reading:
    """Reading `number`, ten minutes after the one before. Every tenth costs 1 credit more."""
    booked = Booked(number * 5, number * 5, number * 5)
    others = number // 10 if workspace == "globex" else 0
    return Reading(BEGIN_MS + number * 600_000, 9_000 - number * 5 - others, booked)


def fill(model: ReadModel, workspace: str, readings: int) -> None:
    for number in range(readings):
        reading = read(number, workspace)
        take(model, lane(NAMES, workspace, at_ms=reading.at_ms, reading=reading))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.sqlite"


def bills(path: Path, *workspaces: str, since_s: int = 0) -> list[Bill]:
    queries = Queries(path, set())
    return queries.bills(workspaces or None, since_s)


def test_the_first_of_each_hour_and_the_last_one_tell_the_days(path: Path) -> None:
    model = ReadModel(path, sources())
    fill(model, "acme", 290)
    fill(model, "globex", 290)
    take(model, lane(NAMES, "hooli"))
    model.close()
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM readings WHERE workspace = 'acme'").fetchone() == (
            -(-290 // 6),
        )
    acme, globex = bills(path)
    kept = [read(number) for number in range(0, 290, 6)] + [read(289)]
    assert acme == Bill("acme", read(289).at_ms, read(289).credits, billed_days(kept))
    assert {(day.verdict, day.taken) for day in acme.days} == {("agrees", 720), ("agrees", 5)}
    assert [day.unexplained for day in globex.days] == [0, 14, 14]
    assert sum(day.taken - day.booked for day in globex.days) == 28
    assert bills(path, "globex") == [globex]
    (late,) = bills(path, "acme", since_s=(BEGIN_MS + DAY_MS) // 1000)
    assert late.days == acme.days[: len(late.days)]
    assert bills(path, "hooli") == []


def test_readings_are_kept_for_35_days(path: Path) -> None:
    model = ReadModel(path, sources())
    fill(model, "acme", 1)
    model.sweep(BEGIN_MS + 35 * DAY_MS + HOUR_MS - 1)
    assert len(Queries(path, set())._all("SELECT * FROM readings")) == 1
    model.sweep(BEGIN_MS + 35 * DAY_MS + HOUR_MS)
    assert Queries(path, set())._all("SELECT * FROM readings") == []
    model.close()
