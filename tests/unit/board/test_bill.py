"""The readings of Clay's balance in the read model: one an hour, and what is computed from them."""

import sqlite3
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from stream_app.board.read_model.board_query import BoardQueries
from stream_app.board.read_model.query import Queries
from stream_app.board.read_model.store import ReadModel
from stream_app.client.results.answers import Bill
from stream_app.domain.books.bill import billed_days
from stream_app.domain.limits.balance import Booked, Reading
from stream_app.services.board import BillMetrics
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


def test_metrics_say_today_and_yesterday_once_the_model_is_complete(path: Path) -> None:
    model = ReadModel(path, sources())
    fill(model, "acme", 3 * 144 + 20)  # three days and a bit
    fill(model, "globex", 3 * 144 + 20)
    model.close()
    complete = False
    now_ms = BEGIN_MS + 3 * DAY_MS + 6 * HOUR_MS
    registry = CollectorRegistry()
    registry.register(BillMetrics(BoardQueries(path, set()), lambda: now_ms, lambda: complete))

    def metric(kind: str, workspace: str, day: str) -> float | None:
        labels = {"workspace": workspace, "day": day}
        return registry.get_sample_value(f"stream_app_bill_{kind}_credits", labels)

    def balance() -> float | None:
        labels = {"workspace": "acme"}
        return registry.get_sample_value("stream_app_bill_balance_credits", labels)

    assert metric("taken", "acme", "today") is None
    assert balance() is None
    complete = True
    kinds = ("taken", "booked", "unexplained")
    for bill in bills(path):
        for day, word in zip(bill.days, ("today", "yesterday"), strict=False):
            counted = [metric(kind, bill.workspace, word) for kind in kinds]
            assert counted == [day.taken, day.booked, day.unexplained]
    others = read(432, "globex").credits - read(432).credits
    others -= read(288, "globex").credits - read(288).credits
    assert [metric(kind, "globex", "yesterday") for kind in kinds] == [720 - others, 720, -others]
    assert balance() == read(3 * 144 + 19).credits
    now_ms += DAY_MS
    assert metric("taken", "acme", "today") is None
    assert metric("taken", "acme", "yesterday") == bills(path)[0].days[0].taken
    now_ms += DAY_MS
    assert metric("taken", "acme", "yesterday") is None
    assert balance() is None


def test_a_day_that_cannot_be_compared_has_no_metric(path: Path) -> None:
    model = ReadModel(path, sources())
    for number in range(2):
        reading = Reading(BEGIN_MS + number * HOUR_MS, 100 + number * 500)
        take(model, lane(NAMES, "acme", at_ms=reading.at_ms, reading=reading))
    model.close()
    registry = CollectorRegistry()
    registry.register(BillMetrics(BoardQueries(path, set()), lambda: BEGIN_MS, lambda: True))
    assert bills(path)[0].days[0].verdict == "unknown"
    assert (
        registry.get_sample_value(
            "stream_app_bill_balance_credits",
            {"workspace": "acme"},
        )
        == 600
    )
    assert (
        registry.get_sample_value(
            "stream_app_bill_taken_credits",
            {"workspace": "acme", "day": "today"},
        )
        is None
    )
