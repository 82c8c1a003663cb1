"""All lanes seen from outside, on a real Kafka without a worker."""

import time
from pathlib import Path

import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from stream_app.client.lanes.views import (
    command_log,
    last_views,
    moved_lanes,
    only_workspace,
    read_lanes,
)
from stream_app.dev.kafka import Broker
from stream_app.domain.commands import CommandAnswer
from stream_app.domain.dead_letter.orders import ReplayPause
from stream_app.domain.limits.meters import Meter
from stream_app.domain.model.topics import Retention
from stream_app.domain.views.lane import LaneView
from tests.support.kafka import create_planned
from tests.support.settings import settings_of

MINUTE_MS = 60_000


def view(name: str, partition: int, at_ms: int, spent: int) -> bytes:
    begins_ms = at_ms - 840 * MINUTE_MS
    meter = Meter("2026-11-24", at_ms + 600 * MINUTE_MS, 6_000, spent, begins_ms=begins_ms)
    meters = {"credits_day": meter}
    return msgspec.json.encode(
        LaneView(name, partition, at_ms, "closed", "healthy", 100.0, 8.0, meters=meters),  # type: ignore[arg-type]  # a meter's name
    )


async def test_each_lane_is_shown_with_its_forecast_and_waiting_leads(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
) -> None:
    settings = settings_of(tmp_path, kafka.bootstrap, namespace)
    names = settings.names
    now_ms = int(time.time() * 1000)
    await create_planned(settings)
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:

        async def publish(name: str, partition: int, ago_ms: int, spent: int) -> None:
            at_ms = now_ms - ago_ms
            value = view(name, partition, at_ms, spent)
            await producer.send_and_wait(
                names.lanes,
                value,
                name.encode(),
                partition,
                timestamp_ms=at_ms,
            )

        await publish("busy", 0, 12 * MINUTE_MS, 1_000)  # at the very first offset
        for minutes, spent in ((9, 1_060), (6, 1_120), (3, 1_180), (0, 1_240)):
            await publish("busy", 0, minutes * MINUTE_MS, spent)
        await publish("quiet", 1, 700 * MINUTE_MS, 5)
        await publish("quiet", 1, 600 * MINUTE_MS, 7)
        for _ in range(3):
            await producer.send_and_wait(names.bulk, b"{}", b"busy", 0)
        await producer.send_and_wait(names.commands, b"{}", b"quiet", 1)
        await producer.send_and_wait(names.commands, b'{"id": "c1"}', b"quiet", 1)
        answered = msgspec.json.encode(CommandAnswer("c1", True, now_ms, 1))
        # its offset is not committed yet
        await producer.send_and_wait(names.audit, answered, b"quiet", 1)
        await producer.send_and_wait(names.dlq, b"{}", b"quiet", 1)
        await producer.send_and_wait(
            names.replay_state,
            b'{"by": "jane", "why": "w", "at_ms": 1}',
            b"pause",
            0,
        )
    seen = await read_lanes(settings, lambda _: None)
    lanes = {lane.workspace: lane for lane in seen.facts.lanes}
    assert lanes["busy"].view is not None
    assert lanes["busy"].view.meters["credits_day"].spent == 1_240
    assert lanes["busy"].waiting == {"leads": 0, "leads.retry": 0, "leads.bulk": 3}
    assert lanes["quiet"].view is not None
    assert lanes["quiet"].view.meters["credits_day"].spent == 7
    assert lanes["quiet"].shared_with == ("beside",)
    assert lanes["quiet"].asked == 1
    assert lanes["beside"].view is None
    assert seen.forecasts["busy"]["credits_day"].per_hour == pytest.approx(1_200, rel=0.1)
    assert "credits_day" not in seen.forecasts.get("quiet", {})
    assert seen.facts.worker.members == 0
    assert seen.facts.coming_back == 1
    assert seen.facts.replay_paused == ReplayPause("jane", "w", 1)


async def test_a_workspace_that_comes_back_with_another_home_is_named_by_every_worker(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
) -> None:
    """Only its owner has its row.

    The view is in the partition where the lane was, which no configuration names.
    """
    settings = settings_of(tmp_path, kafka.bootstrap, namespace)
    names = settings.names
    now_ms = int(time.time() * 1000)
    await create_planned(settings)
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for name, partition, at_ms in (
            ("busy", 1, now_ms),
            ("busy", 0, now_ms - 1),
            ("quiet", 1, now_ms),
        ):
            await producer.send_and_wait(
                names.lanes,
                view(name, partition, at_ms, 5),
                name.encode(),
                partition,
            )
    advice = "set workspaces.busy.partition = 1, or use a new workspace name"
    assert await moved_lanes(settings, settings.plan, {"busy", "quiet", "beside"}) == [
        f"workspace busy has its lane in partition 1, the configuration says 0: {advice}",
    ]
    assert await moved_lanes(settings, settings.plan, {"quiet", "beside"}) == []


async def test_the_log_of_commands_has_each_outcome_once_oldest_first(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
) -> None:
    """A command to all partitions has an answer of each, and some may differ."""
    settings = settings_of(tmp_path, kafka.bootstrap, namespace)
    await create_planned(settings)
    answers = [
        CommandAnswer("c3", True, 9, 1, workspace="quiet"),
        CommandAnswer("c2", True, 5, 1, text="2 people"),
        CommandAnswer("c2", True, 6, 0, text="2 people"),
        CommandAnswer("c2", False, 7, 1, text="too many"),
        CommandAnswer("c1", True, 4, 0, workspace="busy"),
    ]
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for answer in answers:
            value = msgspec.json.encode(answer)
            await producer.send_and_wait(settings.names.audit, value, b"", answer.partition)

    async def seen(workspace: str | None, limit: int) -> list[list[tuple[str, int]]]:
        log = await command_log(settings, workspace, limit)
        return [[(answer.id, answer.at_ms) for answer in alike] for alike in log]

    whole = [[("c1", 4)], [("c2", 5), ("c2", 6)], [("c2", 7)], [("c3", 9)]]
    assert await seen(None, 9) == whole
    assert await seen(None, 2) == whole[2:]
    assert await seen("busy", 9) == whole[:1]


async def test_a_lane_that_was_quiet_for_hours_has_its_last_view_and_a_broken_one_is_named(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
) -> None:
    """Of those of the last minutes all are read; older ones are in the part that is compacted."""
    settings = settings_of(tmp_path, kafka.bootstrap, namespace)
    names = settings.names
    now_ms = int(time.time() * 1000)
    await create_planned(settings)
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for name, partition, ago_min, value in (
            ("quiet", 1, 700, view("quiet", 1, now_ms - 700 * MINUTE_MS, 5)),
            ("beside", 1, 650, view("beside", 1, now_ms - 650 * MINUTE_MS, 6)),
            ("quiet", 1, 600, view("quiet", 1, now_ms - 600 * MINUTE_MS, 7)),
            ("beside", 1, 500, b'{"workspace": "beside", "partition": 1.5}'),
            ("busy", 0, 400, b"{of a later version"),
            ("busy", 0, 0, view("busy", 0, now_ms, 8)),
        ):
            at_ms = now_ms - ago_min * MINUTE_MS
            key = name.encode()
            await producer.send_and_wait(names.lanes, value, key, partition, timestamp_ms=at_ms)
    views = await last_views(settings)
    spent = {name: last.meters["credits_day"].spent for name, last in views.items()}
    assert spent == {"quiet": 7, "busy": 8}
    other = msgspec.structs.replace(settings, topics=Retention(dlq_days=99))
    seen = await read_lanes(other, lambda _: None)
    lanes = {lane.workspace: lane for lane in seen.facts.lanes}
    assert {name for name, lane in lanes.items() if lane.view_unreadable} == {"beside"}
    assert lanes["beside"].view is None
    (problem,) = seen.facts.topics
    assert names.dlq in problem
    only = only_workspace(seen, "busy")
    assert [lane.workspace for lane in only.facts.lanes] == ["busy"]
    assert only.forecasts.keys() == {"busy"}
    assert only_workspace(seen, None) is seen
