"""What ordered replays send, and what not: the rest of one that ended early, and erased leads."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import msgspec
import pytest

from stream_app.config import Kafka, Settings, kafka_access
from stream_app.domain.dead_letter.causes import Filter
from stream_app.domain.dead_letter.orders import Fate, PricedPlan, ReplayOrders, ReplayPlan, ReplayProgress
from stream_app.domain.delivery.envelope import HEADERS, pseudonymous_key
from stream_app.domain.delivery.suppression import Suppression, erased_row
from stream_app.domain.lane.price import Part, Quote
from stream_app.domain.model.errors import UnreadableBatch
from stream_app.domain.model.records import Record
from stream_app.domain.plan import Workspace
from stream_app.kafka.connection import silent
from stream_app.replay import inspect, orders, plan
from tests.board.model_records import NOW_MS, Made, dead_letter

SETTINGS = Settings(kafka=Kafka(bootstrap="127.0.0.1:1", partitions=2), workspaces={"acme": Workspace("acme")})
DLQ = SETTINGS.names.dlq


class Written:
    """Takes the transactions of an operator."""

    def __init__(self) -> None:
        self.retried: list[str] = []

    async def transact(self, records: Sequence[Record]) -> None:
        for record in records:
            if record.topic == SETTINGS.names.retry:
                self.retried.append(dict(record.headers)["stream-app-origin"].decode())


async def test_a_replay_that_ends_early_leaves_nothing_to_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def records_at(*_: object) -> AsyncIterator[Any]:
        if not begun:
            begun.append("r-1")
            yield dead_letter(DLQ, origin="leads/0/1", lead_id="crm-1", offset=0)
            raise UnreadableBatch(DLQ, 0, 1, 1, "a torn log")
        yield dead_letter(DLQ, origin="leads/0/2", lead_id="crm-2", offset=2)

    async def survey(*_: object, **__: object) -> tuple[PricedPlan, dict[int, set[int]]]:
        quote = Quote("acme", [Part("people", 1, 6, 6, 6, 1, 1)], {}, True, 1.0)
        return PricedPlan(1, Counter[Fate]({"goes": 1}), Counter(), [quote], {"acme": 4.0}), {0: {0, 2}}

    async def current() -> None:
        pass

    begun: list[str] = []
    monkeypatch.setattr(orders, "records_at", records_at)
    monkeypatch.setattr(orders, "survey_in_thread", survey)
    monkeypatch.setattr(orders, "topic_reader", lambda _: nullcontext())
    state: Any = SimpleNamespace(orders=ReplayOrders(), current=current)
    operator: Any = orders._Operator(SETTINGS, state, lambda: True)
    written, known = Written(), ReplayOrders()
    operator._kafka, operator._orders, operator._outlived = written, known, list[Record]()
    plan = ReplayPlan(0, "dlq", Filter(), {0: 9}, 1, 6, 1)
    known.replays = {name: ReplayProgress(name, "running", "jane", "", 0, plan) for name in ("r-1", "r-2")}
    await operator.work()
    assert known.replays["r-1"].state == "refused"
    assert (known.replays["r-2"].state, known.replays["r-2"].sent) == ("done", 1)
    assert written.retried == ["leads/0/2"]


async def test_an_erased_lead_is_known_by_a_hashed_key_from_any_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    home, erased = SETTINGS.home("acme"), msgspec.json.encode(Suppression("erased", NOW_MS, "c1", "jane"))
    key, policy = pseudonymous_key(b"acme", ()), ((HEADERS["disposition"], b"policy"),)
    letter = Made(DLQ, key, b'{"lead_id": "crm-1"}', 1 - home, headers=policy)
    records = [letter, Made(SETTINGS.names.state, erased_row("acme", "crm-1"), erased, home)]

    async def read(topic: str, ranges: Any = None) -> AsyncIterator[list[Made]]:
        yield [record for record in records if record.topic == topic and record.partition in (ranges or (0, 1))]

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
