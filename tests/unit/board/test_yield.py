"""What Clay finds, as the read model counts it."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from stream_app.board.read_model.board_query import BoardQueries
from stream_app.board.read_model.history import YIELD_KEPT_S
from stream_app.board.read_model.store import ReadModel
from stream_app.cli.status import yield_text
from stream_app.client.results.answers import NO_YIELD, ColumnYield, ImportYield, yield_of
from stream_app.domain.model.messages import Status
from stream_app.domain.plan import MAX_YIELD_COLUMNS
from stream_app.services.board import YieldMetrics
from tests.board.model_records import DAY_MS, NOW_MS, Made, event, flat, sources, take

NAMES = sources().names
MINUTE_MS = 60_000
HOUR_MS = 3_600_000
NONE = NO_YIELD


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.sqlite"


@pytest.fixture
def model(path: Path) -> Any:
    made = ReadModel(path, sources())
    yield made
    made.close()


def answered(
    offset: int,
    status: Status = "enriched",
    at_ms: int = NOW_MS,
    **more: Any,
) -> list[Made]:
    """The events of a lead that Clay has answered."""
    values = {"filled": ["work_email"], "credits": 5, **more}
    lead_id = values.pop("lead_id", f"crm-{offset}")
    first = {"import_id": values.pop("import_id", "")}
    return [
        event(NAMES, lead_id, "received", 1, offset, at_ms=at_ms, **first),
        event(NAMES, lead_id, "sending", 2, offset, at_ms=at_ms),
        event(NAMES, lead_id, "accepted", 3, offset, at_ms=at_ms),
        event(NAMES, lead_id, status, 4, offset, at_ms=at_ms, **values),
    ]


def yields(path: Path, now_ms: int = NOW_MS) -> list[ColumnYield]:
    return BoardQueries(path, set()).yields(now_ms)


def test_values_and_their_price_are_counted_by_column(model: ReadModel, path: Path) -> None:
    take(
        model,
        *answered(0, filled=["work_email", "phone"]),
        *answered(1, "partial", filled=["phone"], empty=["work_email"]),
        *answered(2, "no_data", filled=[], empty=["work_email", "phone"], credits=3),
        *answered(3, "enrich_error", filled=[], empty=["work_email", "phone"], credits=3),
        *answered(4, filled=[]),  # its destination names no column
    )
    phone = yield_of(4, 2, 16)
    email = yield_of(4, 1, 16)
    assert yields(path) == [
        ColumnYield("acme", "people", "phone", phone, phone, NONE),
        ColumnYield("acme", "people", "work_email", email, email, NONE),
    ]
    assert email.share == 0.25
    assert email.credits_each == 16.0
    assert yield_of(2, 0, 6) == yield_of(2, 0, 6)
    assert yield_of(2, 0, 6).credits_each is None
    assert BoardQueries(path, set()).yields(NOW_MS, "beta") == []


def test_an_answer_in_parts_counts_once_and_with_its_last_part(
    model: ReadModel,
    path: Path,
) -> None:
    take(model, *answered(0, "partial", filled=["phone"], empty=["work_email"], credits=9))
    later = event(
        NAMES,
        "crm-0",
        "enriched",
        5,
        at_ms=NOW_MS + MINUTE_MS,
        filled=["phone", "work_email"],
        credits=-4,
    )
    take(model, later, at=4)
    take(model, later, at=4)  # a redelivery repeats no event
    both = yield_of(1, 1, 5)
    assert [(row.column, row.hour) for row in yields(path, NOW_MS + MINUTE_MS)] == [
        ("phone", both),
        ("work_email", both),
    ]


def test_a_forced_lead_counts_once_more_and_an_earlier_post_is_part_of_the_price(
    model: ReadModel,
    path: Path,
) -> None:
    uncertain = [
        event(NAMES, "crm-0", "received", 1),
        event(NAMES, "crm-0", "sending", 2),
        event(NAMES, "crm-0", "send_uncertain", 3),
        event(NAMES, "crm-0", "replayed", 4, credits=20),
        event(NAMES, "crm-0", "sending", 5),
        event(NAMES, "crm-0", "accepted", 6),
        event(NAMES, "crm-0", "no_data", 7, credits=2, empty=["work_email"]),
    ]
    take(model, *uncertain, *answered(1, lead_id="crm-0"))
    assert [row.hour for row in yields(path)] == [yield_of(2, 1, 27)]


def test_an_answer_of_the_cache_is_none_of_clay(model: ReadModel, path: Path) -> None:
    served = [
        event(NAMES, "crm-0", "received", 1),
        event(NAMES, "crm-0", "served_from_cache", 2, saved=6),
    ]
    take(model, *served)
    assert yields(path) == []


@pytest.mark.parametrize(
    ("age_ms", "windows"),
    [
        (0, "hour day"),
        (59 * MINUTE_MS, "hour day"),
        (61 * MINUTE_MS, "day"),
        (23 * HOUR_MS, "day"),
        (24 * HOUR_MS, "before"),
        (7 * DAY_MS + 23 * HOUR_MS, "before"),
        (8 * DAY_MS, ""),
    ],
)
def test_each_answer_is_in_the_windows_of_its_age(
    model: ReadModel,
    path: Path,
    age_ms: int,
    windows: str,
) -> None:
    take(model, *answered(0, at_ms=NOW_MS - age_ms))
    met = [
        window
        for row in yields(path)
        for window in ("hour", "day", "before")
        if getattr(row, window) != NONE
    ]
    assert " ".join(met) == windows


def test_a_share_is_rounded_once_where_it_is_shown() -> None:
    assert yield_text(yield_of(34, 28, 102)) == "82.4 % of 34"
    assert yield_text(NO_YIELD) == ""


@pytest.mark.parametrize(
    ("filled", "credits_", "price", "in_credits"),
    [
        (20, 20, "1", "1 credit"),
        (50, 51, "1", "1 credit"),
        (10, 104, "10.4", "10.4 credits"),
        (2, 4, "2", "2 credits"),
        (11, 16, "1.5", "1.5 credits"),
        (8, 3, "0.4", "0.4 credits"),
        (20, 0, "0", "0 credits"),
        (1, 1_240, "1,240", "1,240 credits"),
        (0, 20, "", ""),
    ],
)
def test_a_price_is_an_amount_and_agrees_with_its_noun(
    filled: int,
    credits_: int,
    price: str,
    in_credits: str,
) -> None:
    counted = yield_of(50, filled, credits_)
    assert counted.price == price
    assert counted.price_in_credits == in_credits


def test_what_is_kept_is_bounded(model: ReadModel, path: Path) -> None:
    columns = [f"c{number}" for number in range(MAX_YIELD_COLUMNS + 5)]
    take(model, *answered(0, filled=columns, import_id="march"))
    assert [row.column for row in yields(path)] == sorted(columns[:MAX_YIELD_COLUMNS])
    model.sweep(NOW_MS)
    assert len(yields(path)) == MAX_YIELD_COLUMNS
    model.sweep(NOW_MS + YIELD_KEPT_S[60] * 1000 + MINUTE_MS)
    assert _rows(path, "yields") == MAX_YIELD_COLUMNS  # the hour is left
    model.sweep(NOW_MS + YIELD_KEPT_S[3_600] * 1000 + HOUR_MS)
    assert _rows(path, "yields") == 0
    assert _rows(path, "import_yields") == MAX_YIELD_COLUMNS
    after_ms = NOW_MS + 40 * DAY_MS
    model.sweep(after_ms)  # deletes the record
    model.sweep(after_ms + MINUTE_MS)
    assert _rows(path, "import_yields") == 0


def test_an_import_counts_its_own_answers(model: ReadModel, path: Path) -> None:
    take(
        model,
        *answered(0, import_id="march"),
        *answered(1, "no_data", filled=[], empty=["work_email"], import_id="march"),
        *answered(2, import_id="april"),
        *answered(3),
    )
    imports, _ = BoardQueries(path, set()).imports("", "", None, 10)
    assert {entry.import_id: entry.yields for entry in imports} == {
        "march": [ImportYield("people", "work_email", yield_of(2, 1, 10))],
        "april": [ImportYield("people", "work_email", yield_of(1, 1, 5))],
    }


def test_metrics_say_the_same_once_the_model_is_complete(model: ReadModel, path: Path) -> None:
    take(model, *flat(answered(number) for number in range(3)))
    complete = False
    registry = CollectorRegistry()
    registry.register(YieldMetrics(BoardQueries(path, set()), lambda: NOW_MS, lambda: complete))

    def metric(kind: str, window: str) -> float | None:
        labels = {"workspace": "acme", "destination": "people", "column": "work_email"}
        return registry.get_sample_value(f"stream_app_yield_{kind}", {**labels, "window": window})

    assert metric("answered", "hour") is None
    complete = True
    kinds = ("answered", "filled", "credits")
    assert [metric(kind, "day") for kind in kinds] == [3, 3, 15]
    assert [metric(kind, "before") for kind in kinds] == [0, 0, 0]


def _rows(path: Path, table: str) -> int:
    with sqlite3.connect(path) as db:
        return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
