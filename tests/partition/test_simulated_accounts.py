"""The bill, the health of each destination and the yield, in drawn histories of the simulator.

A read model reads what the partition writes. Every number is held against the simulator's ledger.
"""

from collections import Counter
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import msgspec
import pytest

from stream_app.board.read_model import query
from stream_app.board.read_model.board_query import BoardQueries
from stream_app.board.read_model.history import yield_windows
from stream_app.board.read_model.store import LogPosition, ReadModel
from stream_app.client.results.answers import Bill, ColumnYield
from stream_app.domain.books import bill
from stream_app.domain.callback import interpret
from stream_app.domain.limits import window
from stream_app.domain.limits.balance import Booked, Reading, balance_reading
from stream_app.domain.limits.budget import Budget
from stream_app.domain.views.lane import LaneView
from stream_app.partition import balances
from tests.board.model_records import Made
from tests.simulation.account_counts import sources_of, topics_of
from tests.simulation.parts import THE_REST, each_part, of_part
from tests.support.partition.histories import FINAL, SLUGS, Past, drawn, lived
from tests.support.partition.ledger_account import (
    ANSWERED,
    HOUR_MS,
    Count,
    LedgerDay,
    days_of_ledger,
)
from tests.support.partition.virtual import run

HISTORIES: Final = 500
HUNTED: Final = 60
MINUTE_MS: Final = 60_000
HALF_MINUTE_MS: Final = 30_000
COUNTED: Final = ("work_email", "phone")
LATER_MS: Final = 22 * HOUR_MS
"""Then some answers are of the last day, and others were before it."""
WINDOWS: Final = ("hour", "day", "before")


def views_of(past: Past) -> list[LaneView]:
    records = past.bench.committed(past.bench.plan.topics.lanes)
    views = [msgspec.json.decode(record.value or b"", type=LaneView) for record in records]
    return [view for view in views if view.workspace == "acme"]


def wrong_bill(bills: list[Bill], count: Count) -> str:
    """Return what the bill says otherwise than the ledger; "" if nothing."""
    if not count.polls:
        return f"{bills} without a reading" if bills else ""
    [of_acme] = bills
    last = count.polls[-1]
    if (of_acme.at_ms, of_acme.credits) != (last.at_ms, count.left(last)):
        return (
            f"{of_acme.credits} left at {of_acme.at_ms}, by the ledger {count.left(last)}: {last}"
        )
    shown = [LedgerDay(*(getattr(day, name) for name in LedgerDay._fields)) for day in of_acme.days]
    counted = days_of_ledger(count)
    if shown != counted:
        return f"shown {shown}, by the ledger {counted}"
    for day in of_acme.days:
        if day.drift != day.taken - day.booked:
            return f"a wrong drift: {day}"
        verdict = {1: "more", 0: "agrees", -1: "less"}[_sign(day.unexplained)]
        if day.unknown_ms == day.until_ms - day.since_ms:
            verdict = "unknown"
        if day.verdict != verdict:
            return f"{day.verdict} instead of {verdict}: {day}"
    return ""


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)


def wrong_health(view: LaneView, count: Count) -> str:
    """Return what a view says of its destinations otherwise than the ledger; "" if nothing."""
    oldest_ms = (view.at_ms // HALF_MINUTE_MS - 9) * HALF_MINUTE_MS
    for alias, seen in view.destinations.items():
        words = Counter(
            word for at_ms, word in count.calls[alias] if oldest_ms <= at_ms <= view.at_ms
        )
        calls = words.total()
        points = 100 * (words["ok"] + words["slow"] / 2) / calls if calls else 100
        if (seen.calls, seen.score) != (calls, round(points, 1)):
            return f"{alias}: {seen}, by the ledger {words} at {view.at_ms}"
    return ""


def wrong_yields(shown: list[ColumnYield], at_ms: int, count: Count) -> str:
    """Return what the yields are otherwise than the ledger's; "" if they are not."""
    hour_ms = (at_ms // MINUTE_MS - 59) * MINUTE_MS
    day_ms = (at_ms // HOUR_MS - 23) * HOUR_MS
    counted = Counter[tuple[str, str, str, str]]()
    for event in count.events:
        if event.status not in ANSWERED:
            continue
        outputs = count.told[count.runs[event.lead_id]].get("result") or {}
        windows = ["day" if event.at_ms >= day_ms else "before"]
        windows += ["hour"] if event.at_ms >= hour_ms else []
        for window_ in windows:
            for column in COUNTED:
                place = (event.destination, column, window_)
                counted[(*place, "answered")] += 1
                counted[(*place, "filled")] += outputs.get(column) is not None
                counted[(*place, "credits")] += count.cost(event.lead_id)
    numbers = {
        (row.destination, row.column, window_, kind): getattr(getattr(row, window_), kind)
        for row in shown
        for window_ in WINDOWS
        for kind in ("answered", "filled", "credits")
    }
    wrong = {
        name: (numbers.get(name, 0), counted[name])
        for name in numbers.keys() | counted.keys()
        if numbers.get(name, 0) != counted[name]
    }
    return f"(shown, by the ledger) {wrong}" if wrong else ""


def wrong_in(past: Past, folder: Path, met: Counter[str]) -> str:
    """Return what is shown otherwise than the ledger has it; "" if nothing.

    met: gets how often the history had what such a comparison needs.
    """
    count = Count(past)
    queries = model_of(past, folder / "model.sqlite")
    bills = queries.bills()
    for shown in bills:
        met.update(day.verdict for day in shown.days)
        met["two days"] += len(shown.days) > 1
        met["in part unknown"] += any(
            day.unknown_ms for day in shown.days if day.verdict != "unknown"
        )
    for alias, calls in count.calls.items():
        met.update(f"{alias} {word}" for _, word in calls)
    met.update(past.bench.states())
    if wrong := wrong_bill(bills, count):
        return wrong
    for at_ms in (past.now_ms, past.now_ms + LATER_MS):
        yields = queries.yields(at_ms)
        for row in yields:
            met.update(f"yield {name}" for name in WINDOWS if getattr(row, name).answered)
        if wrong := wrong_yields(yields, at_ms, count):
            return wrong
    unhealthy = (wrong_health(view, count) for view in views_of(past))
    return next(filter(None, unhealthy), "")


def model_of(past: Past, path: Path) -> BoardQueries:
    """Return the questions to a read model that has read everything."""
    plan = past.bench.plan
    model = ReadModel(path, sources_of(plan))
    model.wipe()
    batch = {
        topic: [
            Made(
                topic,
                record.key,
                record.value,
                record.partition,
                record.offset,
                tuple(record.headers),
                record.timestamp_ms,
            )
            for record in past.bench.committed(topic)
        ]
        for topic in topics_of(plan)
    }
    model.apply(
        batch,
        {(topic, 0): LogPosition(len(records)) for topic, records in batch.items()},
        None,
    )
    model.close()
    return BoardQueries(path, frozenset({FINAL}))


MET: Final = {
    *("agrees", "more", "unknown", "in part unknown", "two days"),
    *("enriched", "no_data", "enrich_error", "parked", "confirmed", "send_uncertain", "refused"),
    *(f"{alias} {word}" for alias in SLUGS for word in ("ok", "slow", "failed")),
    *("yield hour", "yield day", "yield before"),
}
"""What the histories must meet at least, so that equal numbers mean something."""


@each_part
def test_every_number_is_that_of_the_ledger(part: str, tmp_path: Path) -> None:
    met = Counter[str]()
    for seed in of_part(part, range(HISTORIES)):
        wrong = wrong_in(run(lived(drawn(seed))), tmp_path, met)
        assert not wrong, f"history {seed}: {wrong}"
    if part == THE_REST:
        assert met.keys() >= MET, MET - met.keys()


def _all_is_known(first: Reading, then: Reading) -> bool:
    """Take a rise of the balance for something that was taken."""
    return True


def _reported_in_full(booked: Booked, reserved: int, cost: int) -> Booked:
    """Forget that a cost is rounded up."""
    return Booked(booked.credits + cost, booked.least + cost, booked.most + cost, booked.guessed)


def _only_the_estimate(booked: Booked, reserved: int, cost: int) -> Booked:
    """Forget that a lead may cost as much as its ceiling."""
    return Booked(
        booked.credits + cost,
        booked.least,
        booked.most + cost,
        booked.guessed + cost,
    )


def _nothing_in_flight(
    last: Reading | None,
    at_ms: int,
    credits_: float,
    before: Booked,
    after: Booked,
    budget: Budget,
) -> Reading:
    """Forget the leads in flight."""
    return balance_reading(last, at_ms, credits_, before, before, Budget())


def _slow_is_as_good(counts: window.WindowTotals) -> float:
    return 100.0 * counts.success / counts.calls if counts.calls else 100.0


def _short_windows(now_ms: int) -> dict[Any, tuple[int, int, int]]:
    """Count answers for as long as a quarter of an hour less."""
    windows = yield_windows(now_ms).items()
    return {name: (length_s, begin_s + 900, end_s) for name, (length_s, begin_s, end_s) in windows}


@pytest.mark.parametrize(
    "wrong",
    [
        patch.object(bill, "_is_known", _all_is_known),
        patch.object(bill, "_HOUR_MS", HOUR_MS // 2),
        patch.object(Booked, "reported", _reported_in_full),
        patch.object(Booked, "unreported", _only_the_estimate),
        patch.object(balances, "balance_reading", _nothing_in_flight),
        patch.object(window, "score", _slow_is_as_good),
        patch.object(window, "FIVE_MINUTES", window.WindowSpan(9, 30.0)),
        patch.object(interpret, "_is_value", lambda value: True),
        patch.object(query, "yield_windows", _short_windows),
    ],
    ids=[
        "a rise is taken",
        "the hour is short",
        "no cost is rounded",
        "an estimate is the most",
        "nothing is in flight",
        "slow is as good",
        "the window is short",
        "an empty cell is a value",
        "an hour is three quarters of one",
    ],
)
def test_a_wrong_number_is_found_out(wrong: Any, tmp_path: Path) -> None:
    with wrong:
        differences_ = (
            wrong_in(run(lived(drawn(seed))), tmp_path, Counter()) for seed in range(HUNTED)
        )
        assert any(differences_)
