"""What ordered replays send, and what not: the rest of one that ended early, and erased leads."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import msgspec
import pytest

from stream_app.config import Kafka, Settings, kafka_access
from stream_app.domain.commands import read_answer
from stream_app.domain.dead_letter.causes import Filter
from stream_app.domain.dead_letter.orders import (
    MAX_GIVEN_UP,
    Fate,
    PricedPlan,
    ReplayCommand,
    ReplayOrders,
    ReplayPlan,
    ReplayProgress,
    command_row,
)
from stream_app.domain.delivery.envelope import HEADERS, pseudonymous_key
from stream_app.domain.delivery.suppression import Suppression, erased_row
from stream_app.domain.model.errors import UnreadableBatch
from stream_app.domain.model.records import Record
from stream_app.domain.plan import Workspace
from stream_app.domain.views.price import Part, Quote
from stream_app.kafka.connection import silent
from stream_app.replay import inspect, orders, plan
from tests.board.model_records import NOW_MS, Made, dead_letter
from tests.support.partition.virtual import virtual_time

SETTINGS = Settings(
    kafka=Kafka(bootstrap="127.0.0.1:1", partitions=2),
    workspaces={"acme": Workspace("acme")},
)
DLQ = SETTINGS.names.dlq


class Written:
    """Takes the transactions of an operator."""

    def __init__(self) -> None:
        self.retried: list[str] = []
        self.records: list[Record] = []

    async def transact(self, records: Sequence[Record]) -> None:
        self.records += records
        for record in records:
            if record.topic == SETTINGS.names.retry:
                self.retried.append(dict(record.headers)["stream-app-origin"].decode())


async def test_a_replay_that_ends_early_leaves_nothing_to_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def records_at(*_: object) -> AsyncIterator[Any]:
        if not begun:
            begun.append("r-1")
            yield dead_letter(DLQ, origin="leads/0/1", lead_id="crm-1", offset=0)
            raise UnreadableBatch(DLQ, 0, 1, 1, "a torn log")
        yield dead_letter(DLQ, origin="leads/0/2", lead_id="crm-2", offset=2)

    async def survey(*_: object, **__: object) -> tuple[PricedPlan, dict[int, set[int]]]:
        quote = Quote("acme", [Part("people", 1, 6, 6, 6, 1, 1)], {}, True, 1.0)
        return PricedPlan(1, Counter[Fate]({"goes": 1}), Counter(), [quote], {"acme": 4.0}), {
            0: {0, 2},
        }

    async def current() -> None:
        pass

    begun: list[str] = []
    monkeypatch.setattr(orders, "records_at", records_at)
    monkeypatch.setattr(orders, "survey_in_thread", survey)
    monkeypatch.setattr(orders, "topic_reader", lambda _: nullcontext())
    state: Any = SimpleNamespace(orders=ReplayOrders(), current=current)
    operator: Any = orders._Operator(SETTINGS, state, lambda: True)
    written = Written()
    known = ReplayOrders()
    operator._kafka = written
    operator._orders = known
    operator._outlived = list[Record]()
    plan = ReplayPlan(0, "dlq", Filter(), {0: 9}, 1, 6, 1)
    known.replays = {
        name: ReplayProgress(name, "running", "jane", "", 0, plan) for name in ("r-1", "r-2")
    }
    await operator.work()
    assert known.replays["r-1"].state == "refused"
    assert known.replays["r-2"].state == "done"
    assert known.replays["r-2"].sent == 1
    assert written.retried == ["leads/0/2"]


class Refusing(Written):
    """Takes no transaction with a lead in it."""

    async def transact(self, records: Sequence[Record]) -> None:
        if any(record.topic == SETTINGS.names.retry for record in records):
            raise ValueError("a record is too large")
        await super().transact(records)


async def test_a_replay_that_cannot_be_written_ends_where_its_last_transaction_left_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def records_at(*_: object) -> AsyncIterator[Any]:
        yield dead_letter(DLQ, origin="leads/0/1", lead_id="crm-1", offset=0)

    async def survey(*_: object, **__: object) -> tuple[PricedPlan, dict[int, set[int]]]:
        quote = Quote("acme", [Part("people", 1, 6, 6, 6, 1, 1)], {}, True, 1.0)
        return PricedPlan(1, Counter[Fate]({"goes": 1}), Counter(), [quote], {"acme": 4.0}), {
            0: {0},
        }

    async def current() -> None:
        pass

    monkeypatch.setattr(orders, "records_at", records_at)
    monkeypatch.setattr(orders, "survey_in_thread", survey)
    monkeypatch.setattr(orders, "topic_reader", lambda _: nullcontext())
    state: Any = SimpleNamespace(orders=ReplayOrders(), current=current)
    operator: Any = orders._Operator(SETTINGS, state, lambda: True)
    known = ReplayOrders()
    operator._kafka = Refusing()
    operator._orders = known
    operator._outlived = list[Record]()
    plan = ReplayPlan(0, "dlq", Filter(), {0: 9}, 1, 6, 1)
    known.replays = {"r-1": ReplayProgress("r-1", "running", "jane", "", 0, plan)}
    await operator.work()
    assert known.replays["r-1"].state == "refused"
    assert known.replays["r-1"].sent == 0
    assert known.replays["r-1"].next == {}


@virtual_time
async def test_a_replay_that_is_stopped_while_it_sends_is_stopped_and_not_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = ReplayCommand("c-1", "stop", "r-1", NOW_MS, "jane")
    follower = ReplayOrders()

    async def records_at(*_: object) -> AsyncIterator[Any]:
        yield dead_letter(DLQ, origin="leads/0/1", lead_id="crm-1", offset=0)
        follower.apply(*command_row(asked))
        await asyncio.sleep(1.0)
        yield dead_letter(DLQ, origin="leads/0/2", lead_id="crm-2", offset=2)

    async def survey(*_: object, **__: object) -> tuple[PricedPlan, dict[int, set[int]]]:
        quote = Quote("acme", [Part("people", 2, 12, 12, 12, 1, 1)], {}, True, 1.0)
        return PricedPlan(2, Counter[Fate]({"goes": 2}), Counter(), [quote], {"acme": 4.0}), {
            0: {0, 2},
        }

    async def current() -> None:
        pass

    monkeypatch.setattr(orders, "records_at", records_at)
    monkeypatch.setattr(orders, "survey_in_thread", survey)
    monkeypatch.setattr(orders, "topic_reader", lambda _: nullcontext())
    state: Any = SimpleNamespace(orders=follower, current=current)
    operator: Any = orders._Operator(SETTINGS, state, lambda: True)
    written = Written()
    known = ReplayOrders()
    operator._kafka = written
    operator._orders = known
    operator._outlived = list[Record]()
    plan = ReplayPlan(0, "dlq", Filter(), {0: 9}, 2, 12, 1)
    known.replays = {"r-1": ReplayProgress("r-1", "running", "jane", "", 0, plan)}
    await operator.work()
    assert known.replays["r-1"].state == "stopped"
    assert known.replays["r-1"].sent == 1
    assert written.retried == ["leads/0/1"]


async def test_an_erased_lead_is_known_by_a_hashed_key_from_any_partition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = SETTINGS.home("acme")
    erased = msgspec.json.encode(Suppression("erased", NOW_MS, "c1", "jane"))
    key = pseudonymous_key(b"acme", ())
    policy = ((HEADERS["disposition"], b"policy"),)
    letter = Made(DLQ, key, b'{"lead_id": "crm-1"}', 1 - home, headers=policy)
    records = [letter, Made(SETTINGS.names.state, erased_row("acme", "crm-1"), erased, home)]

    async def read(topic: str, ranges: Any = None) -> AsyncIterator[list[Made]]:
        yield [
            record
            for record in records
            if record.topic == topic and record.partition in (ranges or (0, 1))
        ]

    kafka = SimpleNamespace(read=read, bounds=AsyncMock(return_value={0: (0, 1), 1: (0, 1)}))
    monkeypatch.setattr(kafka_access, "TopicReader", lambda *_: nullcontext(kafka))
    priced, _ = await plan.survey(SETTINGS, "dlq", Filter(kinds=frozenset({"policy"})), silent)
    assert priced.fates == {"suppressed": 1}
    assert (await inspect.show(SETTINGS, f"{DLQ}/{1 - home}/0", silent)).suppressed


async def test_an_operator_that_cannot_take_over_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka = AsyncMock(take_over=AsyncMock(side_effect=RuntimeError("away")))
    monkeypatch.setattr(orders, "TransactionalState", lambda *_, **__: kafka)
    with pytest.raises(RuntimeError, match="away"):
        await orders.OrderRunner(SETTINGS, AsyncMock(), lambda: True).run()
    kafka.close.assert_awaited_once_with()


class Operated:
    """The rows of the replay state on Kafka, which an operator writes. `orders` is what the
    follower of these rows has read, and `current` lets it read the rest.
    """

    def __init__(self, *commands: ReplayCommand) -> None:
        self.rows: dict[bytes, bytes] = dict(map(command_row, commands))
        self.orders = ReplayOrders(self.rows.items())
        self.take_overs = 0

    async def take_over(self) -> dict[bytes, bytes]:
        self.take_overs += 1
        return dict(self.rows)

    async def transact(self, records: Sequence[Record]) -> None:
        for record in records:
            if record.topic != SETTINGS.names.replay_state:
                continue
            assert record.key is not None
            if record.value is None:
                self.rows.pop(record.key, None)
            else:
                self.rows[record.key] = record.value

    async def close(self) -> None:
        await asyncio.sleep(0)

    async def current(self) -> None:
        self.orders = ReplayOrders(self.rows.items())


@virtual_time
async def test_a_command_has_one_operator_although_the_follower_is_behind_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kafka: Any = Operated(ReplayCommand("c-1", "stop", "r-1", NOW_MS, "jane"))
    monkeypatch.setattr(orders, "TransactionalState", lambda *_, **__: kafka)
    running = asyncio.create_task(orders.OrderRunner(SETTINGS, kafka, lambda: True).run())
    await asyncio.sleep(60.0)
    assert kafka.rows == {}
    assert kafka.take_overs == 1
    running.cancel()


@pytest.mark.parametrize(
    ("gone", "says"),
    [
        ([f"{DLQ}/0/9", f"{SETTINGS.names.leads}/0/1", "nothing"], "4 are no longer kept"),
        ([], "1 is no longer kept"),
    ],
)
async def test_dead_letters_are_given_up_once_and_the_answer_says_how_many(
    monkeypatch: pytest.MonkeyPatch,
    gone: list[str],
    says: str,
) -> None:
    poison = (
        (HEADERS["disposition"], b"poison"),
        (HEADERS["origin"], b"leads/0/7"),
        (HEADERS["seq"], b"1"),
    )
    letters = {
        f"{DLQ}/0/0": dead_letter(DLQ, origin="leads/0/1", lead_id="crm-1", offset=0),
        f"{DLQ}/0/1": Made(DLQ, b"acme", b"{", 0, 1, poison),
        f"{DLQ}/0/2": Made(DLQ, b"acme", b"{}", 0, 2, (("who", b"else"),)),
    }

    async def records_at(_: object, topic: str, chosen: dict[int, set[int]]) -> AsyncIterator[Any]:
        for place, letter in letters.items():
            if topic == DLQ and int(place.rpartition("/")[2]) in chosen.get(0, ()):
                yield letter

    async def current() -> None:
        pass

    monkeypatch.setattr(orders, "records_at", records_at)
    monkeypatch.setattr(orders, "topic_reader", lambda _: nullcontext())
    operator: Any = orders._Operator(SETTINGS, Any, lambda: True)  # type: ignore[arg-type]  # its state is set below
    written = Written()
    known = ReplayOrders()
    operator._kafka = written
    operator._orders = known
    operator._state = SimpleNamespace(orders=ReplayOrders(), current=current)
    places = [*letters, *gone]
    for number in range(2):
        for command in orders.give_up_commands(
            places,
            "jane",
            "old, says ada@example.com",
            NOW_MS,
            f"c-{number}",
        ):
            known.apply(*command_row(command))
    await operator.work()
    answers = [
        read_answer(record.value)
        for record in written.records
        if record.topic == SETTINGS.names.audit
    ]
    assert [
        (answer.id, answer.kind, answer.applied, answer.who, answer.text)
        for answer in answers
        if answer
    ] == [
        ("c-0", "give_up", True, "jane", f"2 dead letters are given up, {says}"),
        (
            "c-1",
            "give_up",
            True,
            "jane",
            f"1 dead letter is given up, 1 had been sent back or given up before, {says}",
        ),
    ]
    ends = [record for record in written.records if record.topic == SETTINGS.names.retry]
    assert [dict(end.headers)[HEADERS["way"]] for end in ends] == [b"given_up"] * 3
    assert {end.value for end in ends} == {b'"given up by jane: old, says [email]"'}
    assert [dict(end.headers)[HEADERS["redriven_from"]] for end in ends] == [
        f"{DLQ}/0/{offset}".encode() for offset in (0, 1, 0)
    ], "the row of a lead says whether the end still concerns it; a record without one ends once"
    assert not known.commands


async def test_a_command_that_the_operator_before_has_answered_is_not_carried_out_again() -> None:
    """It is gone from the rows, and the follower of the rows still has it."""
    state = SimpleNamespace(orders=ReplayOrders())
    for command in orders.give_up_commands([f"{DLQ}/0/9"], "jane", "old", NOW_MS, "c-0"):
        state.orders.apply(*command_row(command))

    async def current() -> None:
        state.orders = ReplayOrders()

    state.current = current
    operator: Any = orders._Operator(SETTINGS, state, lambda: True)  # type: ignore[arg-type]  # a fake
    operator._kafka = Written()
    operator._orders = ReplayOrders()
    await operator.work()
    assert operator._kafka.records == []


def test_many_dead_letters_are_given_up_in_several_commands() -> None:
    places = [f"{DLQ}/0/{offset}" for offset in range(2 * MAX_GIVEN_UP + 1)]
    commands = orders.give_up_commands(places, "jane", "", NOW_MS, "c-1")
    assert [command.id for command in commands] == ["c-1", "c-1-1", "c-1-2"]
    assert [place for command in commands for place in command.dead_letters] == places
