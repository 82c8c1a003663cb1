"""Holding, on virtual time: what Kafka does not take is held, and written when it is back."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.domain.model.records import Record
from stream_app.gateway import holding
from stream_app.gateway.holding import Holding, Kept
from tests.support.partition.virtual import virtual_time

HOLD_S = 50.0
ANSWERS_WITHIN_S = 5.0


class Kafka:
    """Takes records after 10 ms, or fails after 5 s while it is away, as the inbox does."""

    def __init__(self) -> None:
        self.away = False
        self.answers_after_s = ANSWERS_WITHIN_S
        self.breaks_with: Exception | None = None
        self.refused: set[bytes] = set()
        self.taken: list[bytes] = []
        self.asked = 0
        self.at_once = 0
        self.most_at_once = 0

    async def put(self, record: Record) -> None:
        value = record.value or b""
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.away:
                await asyncio.sleep(self.answers_after_s)
                raise BrokerUnavailable("away")
            await asyncio.sleep(0.01)
            if self.breaks_with is not None:
                raise self.breaks_with
            if value in self.refused:
                raise BrokerUnavailable("too large for this topic")
            self.taken.append(value)
        finally:
            self.at_once -= 1


class Held:
    """A holding over a Kafka, whose task runs."""

    def __init__(self) -> None:
        self.kafka = Kafka()
        self.registry = CollectorRegistry()
        self.holding = Holding(self.kafka.put, HOLD_S, self.registry)
        self._task = asyncio.create_task(self.holding.run())

    def keep(self, name: str, size: int = 0) -> asyncio.Task[Kept]:
        value = name.encode().ljust(size)
        return asyncio.create_task(
            self.holding.keep(name, Record("leads.callbacks", b"acme", value, (), 0)),
        )

    def figure(self, name: str) -> float:
        value = self.registry.get_sample_value(f"stream_app_callbacks_{name}")
        assert value is not None
        return value

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


def now() -> float:
    return asyncio.get_running_loop().time()


async def took(work: Coroutine[Any, Any, Kept] | asyncio.Task[Kept]) -> tuple[Kept, float]:
    began = now()
    return await work, now() - began


@virtual_time
async def test_what_kafka_takes_is_stored_at_once() -> None:
    held = Held()
    kept, seconds = await took(held.keep("a"))
    assert kept == "stored"
    assert seconds < 1
    assert held.figure("held") == 0
    await held.close()


@virtual_time
async def test_a_callback_waits_for_kafka_and_is_answered_once_it_is_stored() -> None:
    held = Held()
    held.kafka.away = True
    first = held.keep("a")
    await asyncio.sleep(6)
    rest = [held.keep(str(number)) for number in range(1_000)]
    await asyncio.sleep(20)
    assert not any(task.done() for task in [first, *rest])
    assert held.kafka.most_at_once <= 1, "one task asks, however many wait"
    assert held.figure("held") == 1_001
    assert held.figure("held_oldest_seconds") == pytest.approx(26, abs=0.1)
    held.kafka.away = False
    assert set(await asyncio.gather(first, *rest)) == {"stored"}
    assert now() < 26 + 7, "it asks again within seconds"
    assert len(held.kafka.taken) == 1_001
    assert held.figure("held") == held.figure("held_bytes") == 0
    assert held.figure("held_oldest_seconds") == 0
    assert (await took(held.keep("after")))[1] < 1, "new ones go straight to Kafka again"
    await held.close()


@virtual_time
async def test_after_its_time_a_callback_is_answered_and_stays_held() -> None:
    held = Held()
    held.kafka.away = True
    kept, seconds = await took(held.keep("a"))
    assert kept == "held"
    assert seconds == pytest.approx(HOLD_S)
    kept, seconds = await took(held.keep("b"))
    assert kept == "held"
    assert seconds == pytest.approx(HOLD_S), (
        "also of one that came while Kafka was known to be away"
    )
    assert held.figure("held") == 2
    held.kafka.away = False
    await asyncio.sleep(7)
    assert sorted(held.kafka.taken) == [b"a", b"b"], "although nobody waits for it"
    await held.close()


@virtual_time
async def test_a_callback_whose_caller_is_gone_is_written() -> None:
    held = Held()
    held.kafka.away = True
    callers = [held.keep("a")]
    await asyncio.sleep(1)  # it is being written
    callers[0].cancel()
    await asyncio.sleep(6)
    callers.append(held.keep("b"))
    await asyncio.sleep(1)  # it waits
    callers[1].cancel()
    await asyncio.sleep(1)
    held.kafka.away = False
    await asyncio.sleep(7)
    assert sorted(held.kafka.taken) == [b"a", b"b"]
    await held.close()


@virtual_time
async def test_a_repeated_callback_has_one_place_and_all_its_callers_are_answered() -> None:
    held = Held()
    held.kafka.away = True
    callers = [held.keep("a") for _ in range(3)]
    await asyncio.sleep(10)
    callers.append(held.keep("a"))
    await asyncio.sleep(1)
    assert held.figure("held") == 1
    held.kafka.away = False
    assert await asyncio.gather(*callers) == ["stored"] * 4
    assert held.kafka.taken == [b"a"]
    await held.close()


@virtual_time
async def test_callbacks_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "MAX_CALLBACKS", 3)
    held = Held()
    held.kafka.away = True
    tasks = [held.keep(name) for name in ("a", "b", "c")]
    await asyncio.sleep(10)
    assert held.holding.full() is not None
    kept, seconds = await took(held.keep("d"))
    assert kept == "full"
    assert seconds == 0
    repeat = held.keep("a")
    held.kafka.away = False
    assert await asyncio.gather(*tasks, repeat) == ["stored"] * 4, "a repeated one needs no place"
    assert held.holding.full() is None
    assert await held.keep("e") == "stored"
    await held.close()


@virtual_time
async def test_callbacks_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "MAX_CALLBACK_BYTES", 1_000)
    held = Held()
    held.kafka.away = True
    task = held.keep("a", 600)
    await asyncio.sleep(10)
    assert held.figure("held_bytes") == 600
    assert await held.keep("b", 401) == "full"
    assert held.holding.full() is None, "a smaller one has room"
    small = held.keep("c", 400)
    await asyncio.sleep(1)
    assert held.holding.full() is not None
    held.kafka.away = False
    assert {await task, await small} == {"stored"}
    await held.close()


@virtual_time
async def test_a_callback_that_kafka_never_takes_does_not_stop_the_others() -> None:
    held = Held()
    held.kafka.refused = {b"bad"}
    bad = held.keep("bad")
    await asyncio.sleep(1)
    for number in range(20):
        assert await held.keep(str(number)) == "stored"
    assert await bad == "held"
    await held.close()


@virtual_time
async def test_at_the_end_callers_are_answered_at_once_and_what_is_lost_is_counted() -> None:
    held = Held()
    held.kafka.away = True
    tasks = [held.keep(str(number)) for number in range(5)]
    await asyncio.sleep(8)
    held.holding.release()
    began = now()
    assert await asyncio.gather(*tasks) == ["held"] * 5
    assert now() == began
    late, seconds = await took(held.keep("late"))
    assert late == "held"
    assert seconds == 0
    await held.close()
    assert await held.holding.write_rest(7) == 6
    assert now() - began <= 8
    assert held.figure("lost_total") == 6
    assert held.kafka.taken == []


@virtual_time
async def test_at_the_end_what_kafka_takes_again_is_not_lost() -> None:
    held = Held()
    held.kafka.away = True
    tasks = [held.keep(str(number)) for number in range(1_200)]
    await asyncio.sleep(8)
    held.holding.release()
    await asyncio.gather(*tasks)
    await held.close()
    held.kafka.away = False
    assert await held.holding.write_rest(7) == 0
    assert len(set(held.kafka.taken)) == 1_200
    assert held.figure("lost_total") == 0


@virtual_time
async def test_kafka_is_asked_twice_a_second_while_it_refuses_at_once() -> None:
    held = Held()
    held.kafka.away = True
    held.kafka.answers_after_s = 0.0
    task = held.keep("a")
    await asyncio.sleep(10.1)
    assert held.kafka.asked == 22, "once by its caller, at once by the task, and each half second"
    held.kafka.away = False
    began = now()
    assert await task == "stored"
    assert now() - began < 0.5
    await asyncio.sleep(60)
    assert held.kafka.asked == 23, "nothing is asked while nothing is held"
    await held.close()


@virtual_time
async def test_an_outage_is_logged_when_it_begins_and_when_it_ends() -> None:
    with capture_logs() as lines:
        held = Held()
        for _ in range(2):
            held.kafka.away = True
            tasks = [held.keep(str(number)) for number in range(4)]
            await asyncio.sleep(20)
            held.kafka.away = False
            await asyncio.gather(*tasks)
            assert await held.keep("after") == "stored"
        await held.close()
    common = {"process": "gateway"}
    begins = {"event": "callbacks_held", "because": "away", "log_level": "warning"}
    ends = {"event": "kafka_back", "held": 3, "log_level": "info"}
    assert lines == [common | begins, common | ends] * 2


@virtual_time
async def test_held_callbacks_are_written_many_at_once_when_kafka_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(holding, "_AT_ONCE", 7)
    held = Held()
    held.kafka.away = True
    tasks = [held.keep("first")]
    await asyncio.sleep(6)
    tasks += [held.keep(str(number)) for number in range(30)]
    await asyncio.sleep(10)
    assert held.kafka.most_at_once == 1
    held.kafka.away = False
    assert await asyncio.gather(*tasks) == ["stored"] * 31
    assert held.kafka.most_at_once == 7
    assert len(set(held.kafka.taken)) == len(held.kafka.taken) == 31
    await held.close()


@virtual_time
async def test_one_that_kafka_refuses_goes_behind_the_others_while_they_wait() -> None:
    held = Held()
    held.kafka.away = True
    held.kafka.refused = {b"bad"}
    tasks = [held.keep(name) for name in ("bad", "a", "b")]
    await asyncio.sleep(12)
    held.kafka.away = False
    assert [await task for task in tasks[1:]] == ["stored"] * 2
    assert now() < 12 + 12
    assert held.figure("held") == 1
    held.kafka.refused = set()
    assert await tasks[0] == "stored"
    assert held.kafka.taken[-1] == b"bad"
    await held.close()


@virtual_time
async def test_a_callback_that_is_written_again_is_still_one_of_the_held() -> None:
    held = Held()
    held.kafka.away = True
    task = held.keep("a", 600)
    for asked, seconds in ((1, 0.0), (2, 5.1), (2, 9.9), (3, 10.7)):
        await asyncio.sleep(seconds - now())
        assert held.kafka.asked == asked or now() == 0
        is_held = now() > ANSWERS_WITHIN_S
        assert held.figure("held") == is_held
        assert held.figure("held_bytes") == 600 * is_held
        assert held.figure("held_oldest_seconds") == pytest.approx(now() if is_held else 0)
    held.kafka.away = False
    assert await task == "stored"
    await held.close()


@virtual_time
async def test_a_callback_that_a_bug_hits_leaves_its_place() -> None:
    held = Held()
    held.kafka.breaks_with = RuntimeError("a bug")
    first = held.keep("a", 600)
    second = held.keep("a", 600)
    with pytest.raises(RuntimeError, match="a bug"):
        await first
    assert now() < 1
    assert await second == "held", "its caller is answered at once, too"
    assert now() < 1
    assert held.holding._bytes == 0
    assert held.figure("held") == 0
    held.kafka.breaks_with = None
    assert await held.keep("a", 600) == "stored"
    assert held.holding._bytes == 0
    await held.close()


@virtual_time
async def test_at_the_end_none_is_lost_whose_writing_was_about_to_begin() -> None:
    """A task that is cancelled before its first step does nothing at all."""
    held = Held()
    held.kafka.away = True
    task = held.keep("a")
    await asyncio.sleep(ANSWERS_WITHIN_S)
    for _ in range(10):  # up to here step by step: its caller holds it, and the task is to write it
        if held.holding._waiting:
            break
        await asyncio.sleep(0)
    assert held.kafka.asked == 1
    await asyncio.sleep(0)
    await held.close()
    assert held.kafka.asked == 1, "it did not begin"
    held.holding.release()
    assert await task == "held"
    held.kafka.away = False
    assert await held.holding.write_rest(7) == 0
    assert held.kafka.taken == [b"a"]


@virtual_time
async def test_one_that_is_being_written_when_the_gateway_ends_is_answered_when_it_fails() -> None:
    held = Held()
    held.kafka.away = True
    waits = held.keep("a")
    await asyncio.sleep(6)
    held.kafka.away = False
    held.kafka.answers_after_s = 3.0
    await asyncio.sleep(1)
    assert await waits == "stored"
    held.kafka.away = True
    written = held.keep("b")
    await asyncio.sleep(1)
    held.holding.release()
    await asyncio.sleep(0)
    assert not written.done(), "it may still be stored"
    kept, seconds = await took(written)
    assert kept == "held"
    assert seconds == pytest.approx(2.0)
    held.kafka.away = False
    await held.close()
    with capture_logs() as lines:
        assert await held.holding.write_rest(7) == 0
    assert not any(line["event"] == "callbacks_lost" for line in lines)
    assert held.kafka.taken == [b"a", b"b"]


@virtual_time
async def test_what_is_lost_is_said_with_what_to_do() -> None:
    held = Held()
    held.kafka.away = True
    tasks = [held.keep(name) for name in ("a", "b")]
    await asyncio.sleep(8)
    held.holding.release()
    await asyncio.gather(*tasks)
    await held.close()
    with capture_logs() as lines:
        began = now()
        assert await held.holding.write_rest(60) == 2
        assert now() - began <= ANSWERS_WITHIN_S, "it does not ask a Kafka again that is away"
    [line] = [line for line in lines if line["event"] == "callbacks_lost"]
    assert line["callbacks"] == 2
    assert line["log_level"] == "error"
    assert "run the HTTP column of the tables again" in line["text"]
    assert held.figure("lost_total") == 2


@virtual_time
async def test_a_callback_that_comes_while_kafka_is_just_back_is_written_by_its_caller() -> None:
    held = Held()
    held.kafka.away = True
    first = held.keep("a")
    await asyncio.sleep(6)
    asked = held.kafka.asked
    second = held.keep("b")
    await asyncio.sleep(1)
    assert held.kafka.asked == asked, "only the task asks while Kafka is away"
    held.kafka.away = False
    assert await first == await second == "stored"
    third = held.keep("c")
    await asyncio.sleep(0.005)
    assert held.kafka.at_once == 1
    assert await third == "stored"
    await held.close()


def test_a_record_without_a_value_takes_no_bytes() -> None:
    assert holding._Place("c-1", Record("leads.callbacks", b"acme", None, (), 0), 0.0).size == 0
