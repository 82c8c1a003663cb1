"""Searches on Kafka for the board, with a Kafka in memory: which records match, and what is said
without an answer.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, ClassVar

import msgspec
import pytest
from aiokafka import TopicPartition

from stream_app.board.read_model import on_kafka
from stream_app.board.read_model.on_kafka import FoundRecord, ResultFetcher, WaitingLeads
from stream_app.board.read_model.query import FoundResultAt
from stream_app.client.results.answers import NO_ANSWER, FoundResult
from stream_app.domain.lead.identity import people
from stream_app.domain.model.errors import BrokerUnavailable, KafkaRefused, UnreadableBatch
from stream_app.domain.model.messages import Result
from stream_app.domain.views.explain import ConsumerGroup
from stream_app.kafka.connection import KafkaConnection
from tests.board.model_records import Made
from tests.support.pace import BUSY

NOW_MS = 1_790_000_000_000
UP = ConsumerGroup("Stable", 2)
LOG = TopicPartition("leads", 0)
BULK = TopicPartition("leads.bulk", 0)
NOWHERE = KafkaConnection("kafka:9092")
ADA = {"email": "ada@example.com"}


def lead(offset: int, lead_id: str, workspace: str = "acme", **fields: Any) -> Made:
    value = json.dumps(
        {"lead_id": lead_id, "workspace": workspace, "fields": fields or ADA},
    ).encode()
    return Made("leads", workspace.encode(), value, 0, offset)


class FakeReader:
    """Logs in memory, read in pieces. `opened` and `closed` count the readers."""

    logs: ClassVar[dict[TopicPartition, list[Made]]] = {}
    error: ClassVar[Exception | None] = None
    before: ClassVar[UnreadableBatch | None] = None
    opened: ClassVar[int] = 0
    closed: ClassVar[int] = 0

    def __init__(self, *_: object) -> None:
        pass

    async def __aenter__(self) -> "FakeReader":
        FakeReader.opened += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        FakeReader.closed += 1

    async def begins(self, logs: list[TopicPartition]) -> dict[TopicPartition, int]:
        if self.error is not None:
            raise self.error
        return {log: 2 if log == LOG else 0 for log in logs}

    async def ends(self, logs: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {log: len(self.logs.get(log, ())) for log in logs}

    async def scan(
        self,
        spans: Mapping[TopicPartition, tuple[int, int]],
        *,
        max_records: int,
        on_unreadable: Callable[[UnreadableBatch], None],
        progress: Callable[[int, int], None],
    ) -> AsyncIterator[dict[TopicPartition, list[Made]]]:
        if self.before is not None:
            on_unreadable(self.before)
        records = [
            (log, made)
            for log, (begin, end) in spans.items()
            for made in self.logs.get(log, [])[begin:end]
        ]
        for done, (log, record) in enumerate(records, 1):
            progress(done, len(records))
            yield {log: [record]}

    async def read(
        self,
        topic: str,
        ranges: Mapping[int, tuple[int, int]],
    ) -> AsyncIterator[list[Made]]:
        if self.error is not None:
            raise self.error
        for number, (begin, end) in ranges.items():
            yield self.logs.get(TopicPartition(topic, number), [])[begin:end]


@pytest.fixture(autouse=True)
def kafka(monkeypatch: pytest.MonkeyPatch) -> type[FakeReader]:
    for name, empty in (
        ("logs", {}),
        ("error", None),
        ("before", None),
        ("opened", 0),
        ("closed", 0),
    ):
        monkeypatch.setattr(FakeReader, name, empty)

    async def look_at(connection: KafkaConnection, groups: list[str]) -> dict[str, Any]:
        return {group: (UP, {("leads", 0): 3}) for group in groups}

    for name, fake in (("Reader", FakeReader), ("TopicReader", FakeReader), ("look_at", look_at)):
        monkeypatch.setattr(on_kafka, name, fake)
    return FakeReader


LEADS = [
    *(lead(0, "crm-1"), lead(1, "crm-1"), lead(2, "crm-1")),  # before the group's place
    *(
        lead(3, "crm-2"),
        lead(4, "crm-1", email="eve@example.com"),
        lead(5, "crm-1"),
        lead(6, "", "beta"),
    ),
]


def search() -> WaitingLeads:
    return WaitingLeads(NOWHERE, "workers", ["leads", "leads.bulk"], 1)


(ADAS,) = people(dict(ADA))


@pytest.mark.parametrize(
    ("lead_id", "person", "workspace", "offset"),
    [
        ("crm-1", "", "", 4),
        ("crm-1", "", "acme", 4),
        ("crm-1", "", "beta", None),
        ("crm", "", "", None),
        ("", ADAS, "", 3),
        ("", ADAS, "beta", 6),
        ("", "x" * 22, "", None),
        (f"p-{ADAS}", "", "", 6),
    ],
)
async def test_the_first_record_behind_the_groups_place_that_matches_is_found(
    kafka: type[FakeReader],
    lead_id: str,
    person: str,
    workspace: str,
    offset: int | None,
) -> None:
    kafka.logs = {
        LOG: LEADS,
        BULK: [Made("leads.bulk", None, b"{broken"), Made("leads.bulk", None, None)],
    }
    searched = await search().find(lead_id, person, workspace)
    assert searched.worker == UP
    assert searched.problem == ""
    if offset is None:
        assert searched.matches == []
        assert searched.searched == 6
        assert searched.left == 0
        return
    name = LEADS[offset].value or b""
    home = "beta" if offset == 6 else "acme"
    expected = json.loads(name)["lead_id"] or f"p-{ADAS}"
    assert searched.matches == [FoundRecord(expected, home, "leads", 0, offset, NOW_MS, offset - 3)]
    assert searched.searched == offset - 2
    assert searched.left == 6 - (offset - 2)


async def test_an_id_that_is_written_with_an_escape_is_found(kafka: type[FakeReader]) -> None:
    written = b'{"lead_id": "crm\\u002d7", "fields": {"email": "x@example.com"}}'
    kafka.logs = {
        LOG: [
            *LEADS[:3],
            Made("leads", b"acme", b"\xff", 0, 3),
            Made("leads", b"acme", written, 0, 4),
        ],
    }
    assert [match.offset for match in (await search().find("crm-7", "", "")).matches] == [4]


async def test_a_batch_that_cannot_be_read_is_named_with_the_lead_behind_it(
    kafka: type[FakeReader],
) -> None:
    kafka.logs = {LOG: LEADS}
    kafka.before = UnreadableBatch("leads", 0, 3, 3, "no such codec")
    searched = await search().find("crm-1", "", "")
    assert searched.problem == str(kafka.before)
    assert [match.blocked for match in searched.matches] == [kafka.before]


async def test_a_search_ends_after_so_many_records(
    kafka: type[FakeReader],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(on_kafka, "_MAX_RECORDS", 2)
    kafka.logs = {LOG: LEADS}
    searched = await search().find("unheard-of", "", "")
    assert searched.searched == 2
    assert searched.left == 2


@pytest.mark.parametrize(
    "error",
    [BrokerUnavailable("gone"), KafkaRefused("wrong password"), TimeoutError()],
)
async def test_without_an_answer_that_is_said_and_the_next_search_runs(
    kafka: type[FakeReader],
    error: Exception,
) -> None:
    kafka.error = error
    waiting = search()
    assert (await waiting.find("crm-1", "", "")).problem == NO_ANSWER
    kafka.error = None
    kafka.logs = {LOG: LEADS}
    assert (await waiting.find("crm-1", "", "")).problem == ""


async def test_one_search_runs_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_kafka, "_BUSY_S", 0.01)
    waiting = search()
    async with waiting._turn:
        assert (
            await waiting.find("crm-1", "", "")
        ).problem == "another search is running: try again"


def result(value: bytes | None) -> Made:
    return Made("enriched", b"k", value, 1, 0)


HERE = FoundResult("acme", "people", "clay", 1, NOW_MS, None, None, "")
TITLE = msgspec.json.encode(
    Result("crm-1", "acme", "people", "clay", 1, NOW_MS, 77, {"title": "CEO"}),
)
"""As it lies on Kafka."""


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (TITLE, ""),
        (None, on_kafka._MOVED),
        (b"{", "this version cannot read the result"),
        (b'{"later": 1}', "this version cannot read the result"),
    ],
)
async def test_a_result_is_read_from_its_place(
    kafka: type[FakeReader],
    value: bytes | None,
    problem: str,
) -> None:
    kafka.logs = {TopicPartition("enriched", 1): [result(b"{"), result(value)]}
    fetcher = ResultFetcher(NOWHERE, "enriched", 2)
    for _ in range(2):
        filled = await fetcher.fill(FoundResultAt(1, 1, HERE))
        more: dict[str, Any] = (
            {"problem": problem} if problem else {"age_s": 77, "fields": {"title": "CEO"}}
        )
        assert filled == msgspec.structs.replace(HERE, **more)
    assert kafka.opened == 1
    assert kafka.closed == 0
    await fetcher.close()
    await fetcher.close()
    assert kafka.closed == 1


@pytest.mark.parametrize(
    "error",
    [BrokerUnavailable("gone"), TimeoutError(), UnreadableBatch("enriched", 1, 1, 1, "codec")],
)
async def test_a_result_that_cannot_be_read_now_says_why(
    kafka: type[FakeReader],
    error: Exception,
) -> None:
    kafka.error = error
    fetcher = ResultFetcher(NOWHERE, "enriched", 2)
    is_batch = isinstance(error, UnreadableBatch)
    filled = await asyncio.wait_for(fetcher.fill(FoundResultAt(1, 0, HERE)), 10 * BUSY)
    assert filled.problem == (str(error) if is_batch else NO_ANSWER)
    assert kafka.closed == (0 if is_batch else 1), "a broken connection is not used again"
