"""The books as they are read from topics, without a broker: what counts where, what is compared.

tests/unit/client/test_books.py shows that they balance in any run of the simulation.
"""

import asyncio
import sqlite3
from types import SimpleNamespace
from typing import Any, Final

import msgspec
import pytest
from aiokafka import TopicPartition

from stream_app.client.books import read as module
from stream_app.client.books.compare import Books
from stream_app.client.books.read import read_books
from stream_app.clock import Clock
from stream_app.config import Kafka, Settings
from stream_app.domain.books.money import BooksReport, LaneAccount, OpenCost
from stream_app.domain.delivery.envelope import HEADERS
from stream_app.domain.delivery.state_machine import Delivery, delivery_key, lane_key
from stream_app.domain.lane.lane import Lane
from stream_app.domain.limits.budget import Budget, BudgetPolicy, Period, Reservation
from stream_app.domain.model.errors import StreamAppError, UnreadableBatch
from stream_app.domain.model.messages import RESEND, RESEND_ORDERED, Meter, Status
from stream_app.domain.plan import Destination, Workspace
from stream_app.domain.views.explain import ConsumerGroup
from tests.board.model_records import event
from tests.support.partition.virtual import virtual_time
from tests.unit.client.logs import Logs

HOME: Final = 1
NOW_MS: Final = 1_790_000_000_000
SETTINGS: Final = Settings(
    kafka=Kafka(bootstrap="kafka.example:9", partitions=2),
    workspaces={
        "acme": Workspace("acme", budget=BudgetPolicy(credits_per_day=50), partition=HOME),
    },
    destinations={
        "people": Destination("people", "acme", webhooks_env=("A",)),
        "one-way": Destination("one-way", "acme", webhooks_env=("A",), callbacks=False),
    },
)
NAMES: Final = SETTINGS.names
DAY: Final = "2026-09-21"
MONTH: Final = "2026-09"
METERS: Final[tuple[tuple[Meter, tuple[int, int, int, int]], ...]] = (
    ("credits", (6, 6, 7, 7)),
    ("actions", (1, 1, 2, 2)),
)
ODD: Final = Reservation(DAY, MONTH, 4, 1)


class Line(Logs):
    """The topics as a worker of acme has written them. `outside` is how far the logs grow."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(2)
        self.next: dict[str, int] = {}
        self.passed: dict[str, dict[tuple[str, int], int]] = {}
        self.outside: dict[TopicPartition, int] = {}
        self.options: list[dict[str, Any]] = []
        self.asked: list[Any] = []
        monkeypatch.setattr(module, "Reader", self._reader)
        monkeypatch.setattr(module, "kafka_ready", self._ready)
        monkeypatch.setattr(module, "look_at", self._look)
        monkeypatch.setattr(Clock, "now_ms", lambda _: NOW_MS)

    def _reader(self, connection: Any, **options: Any) -> Any:
        assert connection.bootstrap == "kafka.example:9"
        self.options.append(options)
        return _Outside(self) if "isolation_level" in options else self

    async def _ready(self, settings: Settings, program: str, say: Any) -> None:
        say("Kafka is away")
        self.asked.append(program)

    async def _look(self, connection: Any, groups: Any) -> dict[str, Any]:
        self.asked.append(tuple(groups))
        group = ConsumerGroup("Stable", 1)
        return {name: (group, self.passed.get(name, {})) for name in groups}

    def write(self, topic: str, key: bytes | None, value: Any, **headers: str) -> None:
        offset = self.next.get(topic, 0)
        self.next[topic] = offset + 1
        named = {HEADERS[name]: text for name, text in headers.items()}
        self.add(topic, HOME, offset, value, key, NOW_MS, named)

    def history(
        self,
        offset: int,
        *statuses: Status,
        row: Delivery | None = None,
        topic: str = NAMES.leads,
        destination: str = "people",
        **more: Any,
    ) -> None:
        origin = f"{topic}/{HOME}/{offset}"
        for seq, status in enumerate(statuses, 1):
            told = more if seq == len(statuses) else {}
            made = event(
                NAMES,
                f"crm-{offset}",
                status,
                seq,
                origin=origin,
                destination=destination,
                **told,
            )
            self.write(made.topic, made.key, made.value)
        if row is not None:
            self.write(NAMES.state, delivery_key("acme", destination, f"crm-{offset}"), row)


class _Outside:
    """The same logs to a reader of records that are not committed."""

    def __init__(self, line: Line) -> None:
        self._line = line

    async def __aenter__(self) -> "_Outside":
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def ends(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        stable = await self._line.ends(places)
        return {place: end + self._line.outside.get(place, 0) for place, end in stable.items()}


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    return Line(monkeypatch)


def row(state: Any, offset: int, seq: int, **more: Any) -> Delivery:
    return Delivery(1, state, f"{NAMES.leads}/{HOME}/{offset}", seq, NOW_MS, NOW_MS, "t", **more)


async def read(
    seen: list[tuple[int, int]] | None = None,
    limit: int = 9,
    told: list[str] | None = None,
) -> BooksReport:
    return await read_books(
        SETTINGS,
        limit=limit,
        progress=lambda done, total: None if seen is None else seen.append((done, total)),
        say=lambda text: None if told is None else told.append(text),
    )


def of_acme(line: Line) -> None:
    """Eight records of leads, of which retention has deleted the first two."""
    for offset in range(8):
        line.write(NAMES.leads, b"acme", b'{"lead_id": "crm-%d"}' % offset)
    line.begin_of[TopicPartition(NAMES.leads, HOME)] = 2
    line.history(0, "received", "sending", "accepted", "enriched", row=row("enriched", 0, 4))
    booked: dict[str, Any] = {"credits": 7, "actions": 2, "day": DAY, "month": MONTH}
    line.history(
        2,
        "received",
        "sending",
        "accepted",
        "enriched",
        row=row("enriched", 2, 4),
        **booked,
    )
    line.history(
        3,
        "received",
        "sending",
        "accepted",
        destination="one-way",
        row=row("accepted", 3, 3),
    )
    line.history(
        4,
        "received",
        "sending",
        "dead_lettered",
        row=row("dead_lettered", 4, 3),
    )
    line.history(
        5,
        "received",
        "sending",
        row=row("sending", 5, 2, reservation=Reservation(DAY, MONTH, 6, 1)),
    )
    line.write(NAMES.dlq, b"acme", b"{}", origin=f"{NAMES.leads}/{HOME}/4", disposition="failed")
    line.write(NAMES.deferred, b"acme", b"of another program")
    line.passed = {
        NAMES.worker_app: {(NAMES.leads, HOME): 5},
        NAMES.replay_app: {(NAMES.dlq, HOME): 0},
    }
    spent = Period(
        DAY,
        credits_reserved=6,
        credits_spent=7,
        actions_reserved=1,
        actions_spent=2,
    )
    month = msgspec.structs.replace(spent, id=MONTH)
    lane = Lane("acme", HOME, budget=Budget((spent,), (month,)))
    line.write(NAMES.state, lane_key("acme"), lane)


async def test_all_that_adds_up(line: Line) -> None:
    of_acme(line)
    # All that this partition had was deleted after its end was read.
    line.begin_of[TopicPartition(NAMES.bulk, 0)] = 5
    seen: list[tuple[int, int]] = []
    told: list[str] = []
    report = await read(seen, told=told)
    assert report.problems == []
    assert report.balanced
    counted = {
        name: (column.records, column.leads, column.rows)
        for name, column in report.columns.items()
        if column.records
    }
    assert counted == {
        "enriched": (1, 1, 1),
        "accepted_final": (1, 1, 1),
        "under_way": (2, 2, 2),
        "waiting": (2, 2, 0),
    }
    assert {status: total.records for status, total in report.statuses.items()} == {
        "sending": 1,
        "accepted": 1,
        "dead_lettered": 1,
        "enriched": 1,
    }
    assert report.records == 6
    assert report.accounted == 6
    assert report.leads == 6
    assert report.copies == 1
    assert report.outlived == 1
    assert report.events == 16
    assert report.moving == 0
    assert report.accounts == [
        LaneAccount("acme", period, meter, *sums)
        for period in (DAY, MONTH)
        for meter, sums in METERS
    ]
    assert line.asked == ["books", (NAMES.worker_app, NAMES.replay_app)]
    assert told == ["Kafka is away"]
    assert line.options == [
        {"max_partition_fetch_bytes": 4_194_304},
        {"max_partition_fetch_bytes": 4_194_304, "isolation_level": "read_uncommitted"},
    ]
    # Each topic in turn: what was read of it, and all that is to be read.
    sizes = {NAMES.state: 6, NAMES.status: 16, NAMES.leads: 6, NAMES.dlq: 1, NAMES.deferred: 1}
    assert {total for _, total in seen} == {sum(sizes.values())}
    assert seen == sorted(seen)
    assert seen[-1][0] == sum(sizes.values())
    assert {done for done, _ in seen} == {6, 22, 28, 29, 30}


async def test_what_is_missing_is_named_by_its_place(line: Line) -> None:
    of_acme(line)
    line.passed[NAMES.worker_app] = {(NAMES.leads, HOME): 7}
    line.write(NAMES.status, b"odd", b"{no event")
    line.write(NAMES.status, b"odd", None)
    line.write(NAMES.state, b"d/acme/people/odd", b"[]")
    line.write(NAMES.state, b"l/odd", b"[]")
    gone = delivery_key("acme", "people", "crm-3")
    line.write(NAMES.state, gone, row("parked", 3, 4))
    line.write(NAMES.state, gone, None)
    line.write(NAMES.state, lane_key("old"), Lane("old", HOME))
    line.write(NAMES.state, lane_key("old"), None)
    report = await read()
    problems = [(problem.where, problem.lead_id) for problem in report.problems]
    assert problems == [
        ("acme", "odd"),
        (f"{NAMES.status}/{HOME}/16", ""),
        (f"{NAMES.status}/{HOME}/17", ""),
        (f"{NAMES.leads}/{HOME}/5", "crm-5"),
        (f"{NAMES.leads}/{HOME}/6", ""),
        ("odd", ""),
    ]
    says = [problem.what for problem in report.problems]
    assert says[0].startswith("a delivery's row cannot be read: ")
    assert says[1] == says[2] == "an event that cannot be read"
    assert says[3].startswith("left at sending: ")
    assert says[4].startswith("lost: ")
    assert says[5].startswith("the lane's row cannot be read: ")
    assert report.problem_count == 6
    assert not report.balanced
    assert report.columns["waiting"].records == 1
    assert report.accounted == 5
    few = await read(limit=2)
    assert [problem.where for problem in few.problems] == ["acme", f"{NAMES.status}/{HOME}/16"]
    assert few.problem_count == 6


async def test_a_batch_that_cannot_be_read_is_named_and_the_rest_is_counted(line: Line) -> None:
    of_acme(line)
    line.broken = [UnreadableBatch(NAMES.leads, HOME, 7, 9, "its checksum does not match")]
    report = await read()
    (problem,) = report.problems
    assert problem.where == f"{NAMES.leads}/{HOME}/7"
    assert problem.what == (
        "records up to offset 9 cannot be read, and are not counted: its checksum does not match"
    )
    for topic in (NAMES.state, NAMES.status):
        line.broken = [UnreadableBatch(topic, HOME, 1, 1, "zstd")]
        with pytest.raises(UnreadableBatch, match=topic):
            await read()


@virtual_time
async def test_rows_and_events_of_other_moments_are_not_compared() -> None:
    """A partition on which transactions are open all the time is looked at for two seconds."""
    loop = asyncio.get_running_loop()
    with pytest.MonkeyPatch.context() as patched:
        line = Line(patched)
        of_acme(line)
        patched.setattr(module, "time", SimpleNamespace(monotonic=loop.time))
        # A reservation of the lane that its rows do not have yet, and a step that its row lacks.
        line.history(6, "received", "sending", row=row("received", 6, 1))
        began_s = loop.time()
        report = await read()
        assert loop.time() == began_s, "all was at rest"
        assert [problem.where for problem in report.problems] == [f"{NAMES.leads}/{HOME}/6"]
        line.outside[TopicPartition(NAMES.status, HOME)] = 1
        report = await read()
        assert 2.0 < loop.time() - began_s < 2.01
        assert report.problems == []
        assert report.moving == 1
        assert report.columns["under_way"].records == 3
        assert [account.spent_by_events for account in report.accounts] == [None] * 4

        async def ends_soon() -> None:
            await asyncio.sleep(0.1)
            line.outside.clear()

        ends = asyncio.create_task(ends_soon())
        began_s = loop.time()
        report = await read()
        await ends
        assert 0.1 <= loop.time() - began_s < 0.11
        assert report.moving == 0
        assert report.problem_count == 1


async def test_events_that_retention_has_deleted_are_no_loss(line: Line) -> None:
    of_acme(line)
    line.begin_of[TopicPartition(NAMES.status, HOME)] = 5
    report = await read()
    assert report.columns["waiting"].records == 2
    assert [account.spent_by_events for account in report.accounts] == [None] * 4, (
        "the day began before the first event that is kept"
    )


async def test_records_that_retention_deletes_meanwhile_are_no_loss(
    line: Line,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of_acme(line)
    calls = 0
    begins = line.begins

    async def later(places: Any) -> dict[TopicPartition, int]:
        nonlocal calls
        calls += 1
        kept = await begins(places)
        if calls == 2:
            kept[TopicPartition(NAMES.leads, HOME)] = 4
        return kept

    records = line._records[TopicPartition(NAMES.leads, HOME)]
    line._records[TopicPartition(NAMES.leads, HOME)] = records[4:]
    monkeypatch.setattr(line, "begins", later)
    report = await read()
    assert report.problems == []
    assert report.outlived == 3
    assert report.records == 4


async def test_a_full_disk_says_how_much_room_the_books_need(
    line: Line,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any) -> BooksReport:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Books, "close", full)
    with pytest.raises(StreamAppError) as error:
        await read()
    assert str(error.value) == (
        "the temporary file of the books cannot be written (database or disk is full): set TMPDIR "
        "to a directory with 300 MB free for each million leads"
    )


async def test_the_money_of_events_is_added_up_by_what_it_was_for(line: Line) -> None:
    for _ in range(6):
        line.write(NAMES.leads, b"acme", b"{}")
    line.passed = {NAMES.worker_app: {(NAMES.leads, HOME): 6}}
    saved: dict[str, Any] = {"saved": 5, "day": DAY, "month": MONTH}
    line.history(0, "received", "served_from_cache", row=row("served_from_cache", 0, 2), **saved)
    line.history(1, "received", "served_from_cache", row=row("served_from_cache", 1, 2), **saved)
    line.history(
        2,
        "received",
        "served_locally",
        row=row("served_locally", 2, 2),
    )
    for offset, reason in ((3, RESEND), (4, RESEND_ORDERED)):
        line.history(
            offset,
            "received",
            "sending",
            "send_uncertain",
            "sending",
            row=row("sending", offset, 4, unsettled=(ODD,) * (offset - 2)),
            reason=reason,
        )
    report = await read(limit=2)
    assert report.saved == {"acme": 10}
    assert report.provisional == 1
    assert report.possible_doubles == {"acme": 2}
    assert report.open_cost_count == 3
    assert report.open_costs == [
        OpenCost("acme", "people", "crm-3", ODD),
        OpenCost("acme", "people", "crm-4", ODD),
    ], "no more than the limit"
