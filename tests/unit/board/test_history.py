"""The history in the read model: it counts each event once, and everything in it is bounded."""

import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream_app.board.read_model.board_query import BoardQueries, CommandFilter
from stream_app.board.read_model.history import DAY_S, MARK_S, MAX_CHANGES, MINUTE_S, QUARTER_S
from stream_app.board.read_model.query import Queries
from stream_app.board.read_model.store import ReadModel
from stream_app.domain.commands import CommandAnswer
from stream_app.domain.views.lane import LaneChange
from tests.board.model_records import (
    DAY_MS,
    NOW_MS,
    Made,
    dead_letter,
    event,
    history,
    lane,
    sources,
    take,
)

NAMES = sources().names


def rows(path: Path, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with sqlite3.connect(path) as db:
        return db.execute(sql, values).fetchall()


def counted(path: Path, workspace: str, step_s: int) -> tuple[int, ...]:
    sql = (
        "SELECT sum(credits), sum(saved), sum(resent) FROM history WHERE workspace = ? AND "
        "step_s = ?"
    )
    return rows(path, sql, workspace, step_s)[0]


def answer(seq: int = 0, **more: Any) -> Made:
    values: dict[str, Any] = {
        "applied": True,
        "at_ms": NOW_MS + seq,
        "kind": "pause",
        "workspace": "acme",
        **more,
    }
    reported = CommandAnswer(
        id=f"c-{seq}",
        partition=0,
        who="ada",
        why="a test",
        text="paused",
        **values,
    )
    return Made(NAMES.audit, b"acme", msgspec.json.encode(reported), offset=seq)


def test_commands_are_listed_of_a_day_in_utc_of_a_kind_and_of_a_workspace(
    model: ReadModel,
    path: Path,
) -> None:
    begin_ms = NOW_MS // DAY_MS * DAY_MS
    given = [
        (begin_ms - 1, "pause"),
        (begin_ms, "rate"),
        (begin_ms + DAY_MS - 1, "pause"),
        (begin_ms + DAY_MS, "rate"),
    ]
    take(model, *(answer(n, at_ms=at_ms, kind=kind) for n, (at_ms, kind) in enumerate(given)))
    take(model, answer(4, at_ms=begin_ms + 9, workspace="globex"))
    for wanted, listed in (
        (CommandFilter(), [3, 2, 4, 1, 0]),
        (CommandFilter(day="2026-09-21"), [2, 4, 1]),
        (CommandFilter(day="no day"), [3, 2, 4, 1, 0]),
        (CommandFilter(kind="pause"), [2, 4, 0]),
        (CommandFilter("acme", "ada", "pause", "2026-09-21"), [2]),
        (CommandFilter(who="bob"), []),
    ):
        commands = BoardQueries(path, frozenset()).commands(wanted, (1 << 62, ""), 9)
        assert [name for _, name in commands] == [f"c-{n}" for n in listed], wanted


def test_each_event_counts_once_for_its_workspace_and_for_all(model: ReadModel, path: Path) -> None:
    events = [
        *history(NAMES, "crm-1", "received", "sending"),
        event(NAMES, "crm-1", "enriched", 3, credits=-4),
        event(NAMES, "crm-2", "served_from_cache", 1, 1, saved=6),
        event(NAMES, "crm-3", "replayed", 1, 2, reason="resend", workspace="beta"),
        event(NAMES, "crm-4", "replayed", 1, 3, reason="redriven"),
        event(NAMES, "crm-5", "replayed", 1, 4, reason="resend_ordered", workspace="beta"),
    ]
    take(model, *events)
    take(model, *events)  # read again
    for step_s in (MINUTE_S, QUARTER_S, DAY_S):
        assert counted(path, "acme", step_s) == (-4, 6, 0)
        assert counted(path, "", step_s) == (-4, 6, 2)
        assert counted(path, "beta", step_s) == (0, 0, 2)


@pytest.mark.parametrize("many", [1, 2, 5])
def test_a_lead_that_a_budget_holds_again_counts_once_a_day(
    model: ReadModel,
    path: Path,
    many: int,
) -> None:
    steps = [
        ("held_budget", 0),
        ("deferred", 1),
        ("held_budget", 2),
        ("held_outage", 3),
        ("held_budget", DAY_MS),
    ]
    events = [
        event(NAMES, "crm-1", status, seq, at_ms=NOW_MS - NOW_MS % DAY_MS + at_ms)  # type: ignore[arg-type]  # a str
        for seq, (status, at_ms) in enumerate(steps, 1)
    ]
    for begin in range(0, len(events), many):
        take(model, *events[begin : begin + many])
    sql = "SELECT destination, refused FROM history WHERE workspace = ? AND step_s = 86400"
    assert rows(path, sql, "acme") == [("people", 1), ("people", 1)]
    assert rows(path, sql, "") == [("", 1), ("", 1)]


def test_the_last_day_is_95_quarters_of_an_hour_and_the_present_one(
    model: ReadModel,
    ask: Queries,
) -> None:
    begin_ms = (NOW_MS // 900_000 - 95) * 900_000
    times_ms = (begin_ms - 1, begin_ms, NOW_MS)
    take(
        model,
        *(
            event(NAMES, f"crm-{n}", "enriched", 1, n, at_ms=at_ms)
            for n, at_ms in enumerate(times_ms)
        ),
    )
    assert ask.ended(NOW_MS) == {"": {"enriched": 2}, "acme": {"enriched": 2}}


def slot_ms(length_s: int, kept_s: int) -> int:
    """The last ms of the second in which the slot of that length that NOW_MS is in is as old as it
    may get.
    """
    return (NOW_MS // 1000 // length_s * length_s + kept_s) * 1000 + 999


RECEIVED = event(NAMES, "crm-1", "received", 1, at_ms=NOW_MS, import_id="webinar")
ENRICHED = event(NAMES, "crm-1", "enriched", 1, at_ms=NOW_MS, import_id="webinar", credits=1)
RESENT = event(NAMES, "crm-1", "replayed", 1, at_ms=NOW_MS, reason="resend")


@pytest.mark.parametrize(
    ("made", "table", "last_ms"),
    [
        (RECEIVED, "records", NOW_MS + 30 * DAY_MS),
        (RECEIVED, "events", NOW_MS + 30 * DAY_MS),
        (RECEIVED, "imports", NOW_MS + 30 * DAY_MS),
        (ENRICHED, "import_counts", NOW_MS + 30 * DAY_MS),
        (ENRICHED, "status_counts", NOW_MS + 30 * DAY_MS),
        (ENRICHED, "ended WHERE step_s = 86400", NOW_MS + 30 * DAY_MS),
        (ENRICHED, "ended WHERE step_s = 60", slot_ms(MINUTE_S, 7_200)),
        (ENRICHED, "ended WHERE step_s = 900", slot_ms(QUARTER_S, 93_600)),
        (ENRICHED, "history WHERE step_s = 60", slot_ms(60, 7_200)),
        (ENRICHED, "history WHERE step_s = 900", slot_ms(900, 93_600)),
        (ENRICHED, "history WHERE step_s = 86400", slot_ms(DAY_S, 35 * DAY_S)),
        (RESENT, "resent", slot_ms(DAY_S, 35 * DAY_S)),
        (lane(NAMES), "lane_marks", slot_ms(MARK_S, 26 * 3_600)),
        (answer(), "audit", NOW_MS + 365 * DAY_MS),
        (dead_letter(NAMES.dlq), "dead_letter_hours", slot_ms(3_600, 26 * 3_600 - 1)),
        (dead_letter(NAMES.dlq), "causes", slot_ms(DAY_S, 15 * DAY_S - 1)),
        (dead_letter(NAMES.dlq), "letters", slot_ms(DAY_S, 15 * DAY_S - 1)),
        (dead_letter(NAMES.parked), "letters", slot_ms(DAY_S, 366 * DAY_S - 1)),
    ],
)
def test_each_kind_of_row_is_kept_for_its_time_and_no_longer(
    path: Path,
    made: Made,
    table: str,
    last_ms: int,
) -> None:
    def swept(now_ms: int) -> list[tuple[Any, ...]]:
        model = ReadModel(path, sources())
        model.sweep(now_ms)
        model.close()
        return rows(path, f"SELECT * FROM {table}")

    model = ReadModel(path, sources())
    take(model, made)
    model.close()
    assert swept(last_ms)
    assert not swept(last_ms + 1)


def test_a_lane_keeps_its_worst_marks_and_its_last_changes(model: ReadModel, path: Path) -> None:
    for number in range(MAX_CHANGES + 50):
        change = LaneChange("held", f"hold {number}")
        take(
            model,
            lane(
                NAMES,
                at_ms=NOW_MS + number,
                score=100 - number % 50,
                p95_ms=number,
                news=(change,),
            ),
        )
    take(model, lane(NAMES, at_ms=NOW_MS + 9_999, health="insufficient_data", score=0))
    (mark,) = rows(path, "SELECT workspace, score, p95_ms FROM lane_marks")
    assert mark == ("acme", 51, MAX_CHANGES + 49)
    model.sweep(NOW_MS + 60_000)
    news = rows(path, "SELECT text FROM lane_changes ORDER BY at_ms")
    assert len(news) == MAX_CHANGES
    assert news[0] == ("hold 50",)
    assert news[-1] == (f"hold {MAX_CHANGES + 49}",)


def test_a_breaker_that_flaps_leaves_what_a_person_did_and_why_the_lane_was_held(
    model: ReadModel,
    path: Path,
) -> None:
    before = (
        LaneChange("paused", "paused by jane: the new contract"),
        LaneChange("resumed", "resumed"),
        LaneChange("held", "http 401: Clay refuses its token", "http_401"),
        LaneChange("moves", "no longer http 401", "http_401"),
    )
    take(model, lane(NAMES, at_ms=NOW_MS, news=before))
    turn = [
        LaneChange("breaker_open", "5 of 8 calls failed"),
        LaneChange("held", "breaker open: 5 of 8 calls failed", "breaker_open"),
        LaneChange("breaker_half_open", "5 of 8 calls failed"),
        LaneChange("breaker_closed", "the circuit breaker is closed"),
        LaneChange("moves", "no longer breaker open", "breaker_open"),
    ]
    flap = [change for _ in range(400) for change in turn]
    views = (lane(NAMES, at_ms=NOW_MS + n, news=(one,)) for n, one in enumerate(flap, 1))
    take(model, *views)
    for _ in range(2):
        model.sweep(NOW_MS + 60_000)
        kept = [dated.change for dated in BoardQueries(path, set()).lane_changes("acme")]
        assert kept[:MAX_CHANGES] == flap[::-1][:MAX_CHANGES], "without a gap"
        assert kept[-4:] == [*reversed(before)]
        assert len(kept) == MAX_CHANGES + 4


def test_however_many_kinds_the_changes_of_a_lane_have_they_are_bounded(
    model: ReadModel,
    path: Path,
) -> None:
    kinds = (LaneChange(f"kind {number}", "of a foreign program") for number in range(2_000))
    take(model, lane(NAMES, news=tuple(kinds)), lane(NAMES, "beta", news=(LaneChange("x", "y"),)))
    model.sweep(NOW_MS + 60_000)
    assert rows(path, "SELECT workspace, count(*), max(number) FROM lane_changes GROUP BY 1") == [
        ("acme", MAX_CHANGES, 1_999),
        ("beta", 1, 0),
    ]


def test_an_answer_to_a_command_is_kept_once(model: ReadModel, path: Path) -> None:
    take(
        model,
        answer(1),
        answer(2, applied=False, reason="unknown_webhook"),
        Made(NAMES.audit, b"acme", b"no JSON"),
    )
    deep = Made(NAMES.audit, b"acme", b'{"x":' + b"[" * 100_000)
    take(model, answer(1), Made(NAMES.audit, b"acme", b'{"id":"\xff"}'), deep)
    kept = rows(path, "SELECT id, who, why, applied, reason FROM audit ORDER BY at_ms")
    assert kept == [("c-1", "ada", "a test", 1, ""), ("c-2", "ada", "a test", 0, "unknown_webhook")]
    assert rows(path, "SELECT topic, records FROM unreadable") == [(NAMES.audit, 3)]


def test_a_cause_forgets_what_retention_has_removed(model: ReadModel, path: Path) -> None:
    old_ms = NOW_MS - 20 * DAY_MS
    take(model, dead_letter(NAMES.dlq), dead_letter(NAMES.dlq, timestamp=old_ms, offset=1))
    last = dead_letter(NAMES.dlq, "http_503", NOW_MS + 9, 2)
    other = dead_letter(NAMES.dlq, "http_422", old_ms, 3)
    take(model, last, other)
    sql = "SELECT reason, coming_back, first_ms, last_ms FROM causes ORDER BY reason"
    assert rows(path, sql) == [("http_422", 1, old_ms, old_ms), ("http_503", 3, old_ms, NOW_MS + 9)]
    assert rows(path, "SELECT sum(letters) FROM dead_letter_hours") == [(4,)]
    model.sweep(NOW_MS)
    ((reason, dead_letters, first_ms, _),) = rows(path, sql)
    assert reason == "http_503"
    assert dead_letters == 2
    assert old_ms < first_ms <= NOW_MS
    assert rows(path, "SELECT sum(letters) FROM dead_letter_hours") == [(2,)]
