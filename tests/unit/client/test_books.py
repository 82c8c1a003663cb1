"""The books: what is counted, that the board counts the same, and how little memory a million leads
take.
"""

import copy
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, get_args

import msgspec
import pytest

from stream_app.board.read_model.query import Queries
from stream_app.board.read_model.store import ReadModel, Sources
from stream_app.client.books.compare import STATUSES, Books
from stream_app.config import Kafka, Settings
from stream_app.domain.books.money import BooksReport
from stream_app.domain.books.records import (
    COLUMN,
    COLUMN_MEANING,
    COLUMNS,
    NOT_LEADS,
    BookTotals,
    StatusTotals,
    column,
)
from stream_app.domain.cached_results import DAY_MS
from stream_app.domain.delivery.state_machine import NEXT, Delivery
from stream_app.domain.lane.lane import Lane
from stream_app.domain.model.messages import RESEND, RESEND_ORDERED, Status, StatusEvent
from stream_app.domain.model.records import ConsumedRecord, Headers
from stream_app.domain.model.topics import Retention
from stream_app.domain.plan import Workspace
from tests.board.model_records import Made
from tests.simulation.bases import bases, rare
from tests.simulation.schedule import Schedule, drawn
from tests.simulation.tape import Tape
from tests.simulation.world import World
from tests.support.damages import (
    DAMAGES,
    Damage,
    lag_the_row,
    one,
    rows,
    simulated,
    taped,
    with_value,
)
from tests.support.pace import BUSY

_row: Final = msgspec.json.Decoder(Delivery)
_lane: Final = msgspec.json.Decoder(Lane)


CORRECTED: Final = next(base for base in rare() if base.name == "corrected")


def wrong(report: BooksReport) -> list[str]:
    return [f"{problem.where} ({problem.lead_id}): {problem.what}" for problem in report.problems]


# ---------------------------------------------------------------------------------------- the table


def test_every_status_has_a_column_and_every_column_a_meaning() -> None:
    assert set(COLUMN) | NOT_LEADS == set(STATUSES) == set(get_args(Status))
    assert not set(COLUMN) & NOT_LEADS
    assert (
        set(COLUMNS) == set(COLUMN_MEANING) == set(COLUMN.values()) | {"accepted_final", "waiting"}
    )
    assert column("accepted", final=True) == "accepted_final"
    assert column("accepted", final=False) == "under_way"


def test_only_histories_that_begin_with_an_input_record_are_leads() -> None:
    """A callback or a command may begin a history, too, and nothing follows it."""
    of_leads = {after for before, afters in NEXT.items() if before for after in afters}
    assert {
        status for status in NEXT[None] if status not in NEXT and status not in of_leads
    } == NOT_LEADS
    assert [column(status, final=False) for status in NOT_LEADS] == [""] * len(NOT_LEADS)


# ----------------------------------------------------------------------- runs in which all is right


@pytest.mark.parametrize(
    "schedule",
    [*bases(), CORRECTED, *map(drawn, range(24))],
    ids=lambda schedule: schedule.name,
)
def test_the_books_balance_at_every_moment(schedule: Schedule) -> None:
    """Also in the middle of crashes, freezes and rebalances."""
    world = World(schedule)
    # the hook that World sets is not otherwise to be reached
    reported = world._on_commit
    commits = 0

    def on_commit(records: Sequence[ConsumedRecord]) -> None:
        nonlocal commits
        reported(records)
        commits += 1
        if commits % 5 == 0:
            report = taped(world).close()
            assert report.balanced, wrong(report)

    world._on_commit = on_commit  # type: ignore[method-assign]  # see above
    assert not world.run().problems
    report = taped(world).close()
    assert report.balanced, wrong(report)
    assert (
        report.records
        == report.accounted
        == sum(stand.records for stand in report.columns.values())
        > 0
    )
    assert report.columns["waiting"].records == 0
    assert report.accounts


def test_a_cost_that_an_operator_corrected_is_in_the_books() -> None:
    report = simulated(CORRECTED).close()
    assert report.not_leads == {"cost_corrected": 1}, (
        "the first resolution of a parked lead ends it"
    )
    assert report.open_costs == []
    (day,) = [
        account
        for account in report.accounts
        if len(account.period) == 10 and account.meter == "credits"
    ]
    assert day.spent == day.spent_by_events
    assert day.spent == 33, "30 as the operator says, 3 as the late callback says"
    assert day.unknown == 0, "30 as the operator says, 3 as the late callback says"


def test_the_two_counts_are_the_same_where_histories_have_rows(tape: Tape) -> None:
    report = tape.close()
    for status in ("accepted", "dead_lettered", "parked"):
        stand = report.statuses.get(status, StatusTotals())
        assert stand.rows == stand.records
    assert report.statuses["accepted"].records > 0


def test_a_resend_by_policy_or_an_operator_is_counted_as_a_possible_double_spend() -> None:
    tape = simulated(next(base for base in bases() if base.name == "unsure"))
    again = [(log, i, event) for log, i, event in tape.events() if event.reason == RESEND]
    log, i, event = again[0]
    log[i] = with_value(log[i], msgspec.structs.replace(event, reason=RESEND_ORDERED))
    assert tape.close().possible_doubles == Counter(event.workspace for _, _, event in again)


# ---------------------------------------------------------------------------- runs that are damaged


def rich_tape() -> Tape:
    """Of the drawn runs without callbacks, where `accepted` is the end, the one with the most kinds
    of steps.
    """
    tapes = [
        simulated(schedule) for schedule in map(drawn, range(48)) if not schedule.setup.callbacks
    ]
    with_lane = [
        tape
        for tape in tapes
        if any((consumed.key or b"").startswith(b"l/") for consumed in rows(tape, 0))
    ]

    def rich(tape: Tape) -> tuple[bool, int]:
        events = [event for _, _, event in tape.events()]
        return any(event.status == "accepted" and event.seq == 3 for event in events), len(
            {e.status for e in events},
        )

    return max(with_lane, key=rich)


@pytest.fixture(scope="module")
def good() -> Tape:
    return rich_tape()


@pytest.fixture
def tape(good: Tape) -> Tape:
    return Tape(good.plan, good.now_ms, copy.deepcopy(good.logs), dict(good.passed))


@pytest.mark.parametrize(
    ("damage", "says"),
    DAMAGES,
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damage_is_named(tape: Tape, damage: Damage, says: str) -> None:
    origin = one(tape)
    damage(tape, origin)
    report = tape.close()
    assert not report.balanced
    named = [problem.what for problem in report.problems if problem.where == origin]
    assert len(named) == 1, wrong(report)
    assert says in named[0] or (says == "no row" and "its row is gone" in named[0])


@pytest.mark.parametrize(
    "meter",
    ["credits_reserved", "credits_spent", "actions_reserved", "actions_spent"],
)
def test_a_lane_that_is_off_by_one_is_named(tape: Tape, meter: str) -> None:
    log = rows(tape, 0)
    i = max(i for i, consumed in enumerate(log) if (consumed.key or b"").startswith(b"l/"))
    lane = _lane.decode(log[i].value or b"")
    day = lane.budget.days[-1]
    day = msgspec.structs.replace(day, **{meter: getattr(day, meter) + 1})
    budget = msgspec.structs.replace(lane.budget, days=(*lane.budget.days[:-1], day))
    log[i] = with_value(log[i], msgspec.structs.replace(lane, budget=budget))
    report = tape.close()
    assert not report.balanced
    assert [problem.where for problem in report.problems] == [lane.workspace]
    assert meter.partition("_")[2] in report.problems[0].what
    assert day.id in report.problems[0].what


def test_a_reservation_that_no_lane_knows_is_named(tape: Tape) -> None:
    for number in range(tape.plan.partitions):
        rows(tape, number)[:] = [
            consumed
            for consumed in rows(tape, number)
            if not (consumed.key or b"").startswith(b"l/")
        ]
        for i, consumed in enumerate(rows(tape, number)):
            if (
                (consumed.key or b"").startswith(b"d/")
                and consumed.value
                and _row.decode(consumed.value).reservation
            ):
                rows(tape, number)[:] = [rows(tape, number)[i]]
                break
    assert any("the lane has no row" in problem.what for problem in tape.close(limit=1000).problems)


def test_an_unreadable_record_is_named_by_its_own_id(tape: Tape) -> None:
    log = tape.log(tape.plan.topics.status, 0)
    no_text = b'{"state": "\xff"}'
    too_deep = b'{"later": ' + b"[" * 5_000 + b"]" * 5_000 + b"}"
    flying = b'{"lead_id": "x", "status": "flying", "seq": 1, "at_ms": 1, "origin": "leads/0/1"}'
    for value in (b"\xff", b"[]", flying, b'{"lead_id": "\xff"}', too_deep):
        log.append(ConsumedRecord(tape.plan.topics.status, 0, 9_000_000, b"x", value))
    for key in (b"d/acme/crm/lead-%d", b"l/unknown-%d"):
        for number, value in enumerate((b"[]", no_text, too_deep)):
            rows(tape, 0).append(
                ConsumedRecord(tape.plan.topics.state, 0, 9_000_000 + number, key % number, value),
            )
    report = tape.close()
    assert report.problem_count == 11
    assert {"acme", "unknown-0", "unknown-1", "unknown-2"} < {
        problem.where for problem in report.problems
    }


# ---------------------------------------------------------------------------- the rest of the rules


def test_unread_records_wait(tape: Tape) -> None:
    before = tape.close()
    names = tape.plan.topics
    for topic in (names.leads, names.bulk, names.retry):
        tape.log(topic, 0).append(ConsumedRecord(topic, 0, 5_000_000, b"acme", b"whatever it is"))
    report = tape.close()
    assert report.balanced, wrong(report)
    assert report.records == before.records + 3
    assert report.columns["waiting"].records == 3


def test_a_record_that_only_claims_to_be_a_copy_of_nothing_readable_is_an_input(tape: Tape) -> None:
    junk: Headers = (("stream-app-origin", b"\xff/nowhere"), ("stream-app-way", b"replayed"))
    topic = tape.plan.topics.leads
    tape.log(topic, 0).append(ConsumedRecord(topic, 0, 5_000_000, b"acme", b"{}", junk))
    assert tape.close().columns["waiting"].records == 1


def test_histories_outlive_their_records(tape: Tape) -> None:
    """Retention has removed the first records of a topic, and the first events too: that is no
    loss.
    """
    topic, number, offset = one(tape).rsplit("/", 2)
    log = (topic, int(number))
    before = tape.close()
    tape.begins[log] = int(offset) + 1
    tape.logs[log] = [consumed for consumed in tape.log(*log) if consumed.offset > int(offset)]
    tape.kept = False
    report = tape.close()
    assert report.balanced, wrong(report)
    assert report.outlived > 0
    assert report.records + report.outlived == before.records
    assert all(account.spent_by_events is None for account in report.accounts)


def test_a_moving_partition_is_not_compared_with_its_rows(tape: Tape) -> None:
    lag_the_row(tape, one(tape))
    report = tape.close(exact=False)
    assert report.balanced
    assert report.moving == 1


def test_problems_beyond_the_limit_are_counted(tape: Tape) -> None:
    for number in range(tape.plan.partitions):
        tape.log(tape.plan.topics.status, number).clear()
    report = tape.close(limit=2)
    assert len(report.problems) == 2
    assert report.problem_count >= report.records


def board_counts(tape: Tape, path: Path) -> BookTotals:
    """Read the events of all partitions into a read model, and add up what it counts."""
    names = tape.plan.topics
    partitions = range(tape.plan.partitions)
    model = ReadModel(
        path,
        Sources(names, tape.plan.partitions, Retention(), frozenset(tape.plan.workspaces)),
    )
    events = [
        Made(names.status, record.key, record.value, number, record.offset)
        for number in partitions
        for record in tape.log(names.status, number)
    ]
    model.apply({names.status: events}, {}, None)
    model.close()
    final = {
        alias for alias, destination in tape.plan.destinations.items() if not destination.callbacks
    }
    totals = BookTotals()
    for count in Queries(path, final).status_counts():
        totals.add(count.status, count.leads, final=count.column == "accepted_final")
    return totals


@pytest.mark.parametrize(
    "schedule",
    [*bases(), *rare(), *map(drawn, range(12))],
    ids=lambda schedule: schedule.name,
)
def test_both_count_each_lead_in_the_same_column(schedule: Schedule, tmp_path: Path) -> None:
    """tests/simulation/test_account_histories.py draws the batches in which the board reads."""
    tape = simulated(schedule)
    report = tape.close()
    board = board_counts(tape, tmp_path / "model.sqlite")
    by_board = {name: column_.leads for name, column_ in board.columns.items()}
    assert by_board == {name: column_.leads for name, column_ in report.columns.items()}
    assert board.not_leads == report.not_leads
    assert sum(by_board.values()) == report.leads > 0


LEADS = 100_000


@pytest.mark.slow  # of fewer leads, the memory of the interpreter is most
@pytest.mark.timeout(300)
def test_memory_a_lead_is_bounded() -> None:
    argv = [sys.executable, "-m", "benchmarks.books", "--leads", str(LEADS), "--json"]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=280 * BUSY, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    figures = json.loads(ran.stdout)
    assert figures["balanced"]
    assert figures["leads"] == LEADS
    assert figures["bytes_per_lead"] < 200, "objects a lead would take more"


# ------------------------------------------------------------------------- records without a value


LOG: Final = "leads/1"


def run_of(
    passed: int,
    *events: tuple[int, int, int],
    more: Sequence[ConsumedRecord] = (),
) -> BooksReport:
    """The books of records 4 to 8 without a value, of which the group has passed so many.

    An event has the first and the last offset that it is about, and how many records.
    """
    settings = Settings(workspaces={"acme": Workspace("acme")}, kafka=Kafka(partitions=2))
    books = Books(settings.plan)
    books.partition(1, exact=True, kept=True)
    empty = [ConsumedRecord("leads", 1, offset, b"acme", None) for offset in range(4, 9)]
    for record in (*empty, *more):
        books.record(record, passed=record.offset < 4 + passed)
    for seq, (first, last, records) in enumerate(events, 1):
        told = StatusEvent(
            f"{LOG}/{last}#1",
            "",
            "without_value",
            seq=1,
            at_ms=5,
            origin=f"{LOG}/{last}",
            workspace="acme",
            first_offset=first,
            last_offset=last,
            records=records,
        )
        books.event(1, msgspec.json.encode(told), f"status/1/{seq}")
    return books.close(9)


@pytest.mark.parametrize(
    ("passed", "events"),
    [
        (0, []),
        (2, [(4, 5, 2)]),
        (2, [(4, 8, 5)]),
        (5, [(4, 5, 2), (6, 8, 3)]),
        (5, [(1, 8, 8)]),  # retention has deleted the first three
    ],
)
def test_records_without_a_value_are_told_by_the_events_of_their_run(
    passed: int,
    events: list[tuple[int, int, int]],
) -> None:
    report = run_of(passed, *events)
    assert wrong(report) == []
    assert report.without_value == 5
    assert report.records == 0, "they are no leads"


@pytest.mark.parametrize(
    ("passed", "events", "told"),
    [
        (2, [], 0),
        (2, [(4, 4, 1)], 1),
        (5, [(4, 5, 2), (6, 7, 2)], 4),
        (5, [(4, 8, 6)], 6),
    ],
)
def test_records_without_a_value_that_no_event_counts_are_named(
    passed: int,
    events: list[tuple[int, int, int]],
    told: int,
) -> None:
    report = run_of(passed, *events)
    assert wrong(report) == [
        f"{LOG}/4 (): 5 records without a value, {passed} of them passed: "
        f"their events count {told}",
    ]
    assert not report.balanced


def test_a_lead_ends_the_run_of_records_without_a_value() -> None:
    lead = ConsumedRecord("leads", 1, 9, b"acme", b"{}")
    later = [ConsumedRecord("leads", 1, offset, b"acme", None) for offset in (10, 11)]
    report = run_of(7, (4, 8, 5), (10, 10, 1), more=[lead, *later])
    assert not [problem for problem in report.problems if problem.where != f"{LOG}/9"]
    assert report.without_value == 7
    assert report.records == 1
    report = run_of(8, (4, 8, 5), more=[lead, *later])
    named = {problem.where: problem.what for problem in report.problems}
    assert named[f"{LOG}/10"] == (
        "2 records without a value, 2 of them passed: their events count 0"
    )
    assert f"{LOG}/4" not in named


def test_what_became_of_the_leads_is_told_in_the_order_of_the_statuses() -> None:
    """Whatever became of the first record."""
    ends: tuple[Status, ...] = ("suppressed", "duplicate", "rejected_invalid")
    books = Books(Settings(kafka=Kafka(partitions=2)).plan)
    books.partition(1, exact=True, kept=True)
    for offset, status in enumerate(ends, 4):
        books.record(ConsumedRecord("leads", 1, offset, b"acme", b"{}"), passed=True)
        origin = f"{LOG}/{offset}"
        ended = StatusEvent(f"{origin}#1", f"crm-{offset}", status, 1, 5, origin, "acme")
        books.event(1, msgspec.json.encode(ended), f"status/1/{offset}")
    in_order = [status for status in STATUSES if status in ends]
    assert in_order != list(ends)
    assert list(books.close(9).statuses) == in_order


def test_a_row_may_be_gone_when_its_freshness_is_over() -> None:
    """Before that the lead could be paid twice, because nobody would know that it was sent."""
    settings = Settings(kafka=Kafka(partitions=2))
    ended_ms = 7 * DAY_MS
    fresh_ms = settings.delivery.freshness_days * DAY_MS

    def report(after_ms: int) -> list[str]:
        books = Books(settings.plan)
        books.partition(1, exact=True, kept=True)
        books.record(ConsumedRecord("leads", 1, 4, b"acme", b"{}"), passed=True)
        steps: tuple[Status, ...] = ("received", "sending", "accepted", "enriched")
        for seq, status in enumerate(steps, 1):
            step = StatusEvent(
                f"{LOG}/4#{seq}",
                "crm-4",
                status,
                seq,
                ended_ms,
                f"{LOG}/4",
                "acme",
            )
            books.event(1, msgspec.json.encode(step), f"status/1/{seq}")
        return [problem.what for problem in books.close(ended_ms + after_ms).problems]

    (what,) = report(fresh_ms)
    assert "its row is gone before the freshness window" in what
    assert report(fresh_ms + 1) == []
