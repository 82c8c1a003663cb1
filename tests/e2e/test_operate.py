"""Operating lanes live on real Kafka: commands, their answers, and what the leads do from then on."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest

from stream_app.core.messages import Command, CommandAnswer
from stream_app.core.record import Record
from stream_app.dev.kafka import Broker
from tests.e2e.pipeline import Pipeline

pytestmark = pytest.mark.timeout(180)


def command(line: Pipeline, kind: str, name: str, workspace: str = "w0", **args: Any) -> Record:
    asked = Command(name, kind, workspace, int(time.time() * 1000), "jane", "a test", args)  # type: ignore[arg-type]  # a word
    home = line.settings.home(workspace)
    return Record(line.settings.names.commands, workspace.encode(), msgspec.json.encode(asked), (), home)


async def answers(line: Pipeline) -> dict[str, CommandAnswer]:
    """By the id of the command; none may have two."""
    found = [msgspec.json.decode(each.value, type=CommandAnswer) for each in await line.read(line.settings.names.audit)]
    assert len({answer.id for answer in found}) == len(found)
    return {answer.id: answer for answer in found}


async def answer(line: Pipeline, name: str, timeout_s: float = 20) -> CommandAnswer:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := (await answers(line)).get(name):
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(f"{name} is not answered")


async def test_a_pause_under_load_lets_nothing_more_through_until_it_is_resumed(kafka: Broker, namespace: str) -> None:
    async with Pipeline(kafka.bootstrap, namespace, 2) as line:
        await line.publish(line.leads(400))
        await line.publish(
            [command(line, "rate", f"slow-{name}", name, rate_per_s=10, burst=10) for name in line.names]
        )
        worker = line.start("worker")
        await line.until(lambda: line.last()["accepted"] >= 40, 60, "40 accepted")
        await line.publish([command(line, "pause", "c1")])
        paused = await answer(line, "c1")
        assert paused.lane is not None
        assert (paused.applied, paused.lane.holds) == (True, "paused")
        before = sendings(line, "w0")
        assert len(before) < 200, "it came before all were gone"
        assert max(before) <= paused.at_ms
        others = len(sendings(line, "w1"))
        await line.until(lambda: len(sendings(line, "w1")) > others + 20, 30, "the other lane goes on")
        assert sendings(line, "w0") == before
        assert sum(lead.startswith("lead-") for lead in of_w0(line)) == len(before), (
            "and nothing reached Clay but these"
        )
        await line.publish([command(line, "rate", "fast", rate_per_s=1000, burst=1000), command(line, "resume", "c2")])
        assert (await answer(line, "c2")).text.startswith("resumed")
        await line.until(lambda: len(sendings(line, "w0")) == 200, 30, "all of the lane")
        assert await line.stop(worker) == 0
        line.check_stories()
        assert (await answers(line))["slow-w0"].at_ms <= min(before), "what waited came before the first lead"


def sendings(line: Pipeline, workspace: str) -> list[int]:
    """When the leads of a workspace were let through."""
    steps = (event for story in list(line.stories.values()) for event in story)
    return sorted(step.at_ms for step in steps if step.status == "sending" and step.workspace == workspace)


def of_w0(line: Pipeline) -> list[str]:
    """Leads of the first workspace (even numbers) that Clay has."""
    return [lead for lead in line.summary()["leads"] if int(lead.removeprefix("lead-")) % 2 == 0]
