"""What is kept of Kafka's answers: asked once for all who want to know, and not claimed when Kafka does not answer."""

import asyncio

import pytest

from stream_app.domain.errors import BrokerUnavailable, KafkaRefused
from stream_app.kafka import background
from stream_app.kafka.background import Background


class Counted(Background[int]):
    """Counts the questions. `fails`: what the next ones raise; `waits`: they take until it is set."""

    def __init__(self, fresh_s: float) -> None:
        super().__init__(fresh_s)
        self.times = 0
        self.fails: Exception | None = None
        self.waits: asyncio.Event | None = None

    async def _ask(self) -> int:
        self.times += 1
        if self.waits is not None:
            await self.waits.wait()
        if self.fails is not None:
            raise self.fails
        return self.times


async def test_an_answer_is_shared_until_it_is_old() -> None:
    kept, old = Counted(3_600), Counted(0)
    assert [await kept.look(60) for _ in range(3)] == [1, 1, 1]
    assert await asyncio.gather(*(old.look(60) for _ in range(3))) == [1, 1, 1], "asked at the same time"
    assert await old.look(60) == 2


async def test_who_does_not_wait_for_an_answer_sees_the_last_one() -> None:
    asked = Counted(0)
    assert await asked.look(60) == 1
    asked.waits = asyncio.Event()
    assert await asked.look(0) == 1
    asked.waits.set()
    assert await asked.look(60) == 2
    asked.waits.clear()
    await asked.look(0)
    await asked.close()
    assert asked.times == 3


@pytest.mark.parametrize("error", [BrokerUnavailable("away"), KafkaRefused("no right"), TimeoutError()])
async def test_nothing_is_known_when_kafka_does_not_answer(error: Exception) -> None:
    asked = Counted(0)
    assert await asked.look(60) == 1
    asked.fails = error
    assert await asked.look(60) is None
    asked.fails = None
    assert await asked.look(60) == 3


async def test_a_question_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "ANSWER_WITHIN_S", 0)
    asked = Counted(0)
    asked.waits = asyncio.Event()
    assert await asked.look(60) is None
    assert asked.times == 1
