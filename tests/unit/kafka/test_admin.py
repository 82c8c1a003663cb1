"""The wait for Kafka and what is then asked of it have a bound each, and an error says which."""

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext

import pytest

from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.kafka import connection
from stream_app.kafka.connection import KafkaConnection, admin_of
from tests.support.partition.virtual import virtual_time

WHERE = KafkaConnection("kafka.example:9")
BOUND_S = 60.0


@pytest.fixture
def slow_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka first answers after 50 s of the 60 s."""

    async def refusal_or_silence(_: KafkaConnection) -> str | None:
        return None if asyncio.get_running_loop().time() >= 50 else "connection refused"

    def open_admin(*_: object) -> AbstractAsyncContextManager[str]:
        return nullcontext("an admin client")

    monkeypatch.setattr(connection, "refusal_or_silence", refusal_or_silence)
    monkeypatch.setattr(connection, "open_admin", open_admin)


@pytest.mark.usefixtures("slow_start")
@virtual_time
async def test_a_slow_start_leaves_the_work_the_whole_of_its_time() -> None:
    async with admin_of(WHERE, BOUND_S) as admin:
        await asyncio.sleep(BOUND_S - 1)
    assert admin == "an admin client"


@pytest.mark.usefixtures("slow_start")
@virtual_time
async def test_work_that_takes_too_long_is_named_and_is_no_silence_of_kafka() -> None:
    with pytest.raises(BrokerUnavailable) as error:
        async with admin_of(WHERE, BOUND_S, work="the creation of topics"):
            await asyncio.sleep(BOUND_S + 1)
    assert str(error.value) == (
        "Kafka at kafka.example:9 answers, but the creation of topics took more than 60 s: try "
        "again; if it lasts, look at the load and the logs of its brokers"
    )


@pytest.mark.usefixtures("slow_start")
@virtual_time
async def test_a_kafka_that_does_not_start_in_time_does_not_answer() -> None:
    with pytest.raises(BrokerUnavailable, match=r"did not answer within 9 s \(connection refused"):
        async with admin_of(WHERE, 9.0):
            pass
