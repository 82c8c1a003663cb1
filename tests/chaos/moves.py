"""Moves lanes to other partitions while everything is broken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from random import Random

from aiokafka.errors import KafkaError

from stream_app.domain.lane.lane import Lane
from tests.e2e.commands import command
from tests.e2e.fleet import Fleet


@asynccontextmanager
async def moving(line: Fleet, seed: int, every_s: float) -> AsyncIterator[None]:
    """Order a move of some lane now and then inside the `with` block; never, if `every_s` is 0."""
    task = asyncio.create_task(_keep_moving(line, Random(f"moves {seed}"), every_s)) if every_s else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _keep_moving(line: Fleet, rng: Random, every_s: float) -> None:
    number = 0
    while True:
        await asyncio.sleep(every_s * rng.uniform(0.5, 1.5))
        number += 1
        workspace, to = rng.choice(line.names), rng.randrange(line.settings.kafka.partitions)
        with suppress(KafkaError):  # the broker is away just now
            await line.publish([command(line, "move", f"move-{number}", workspace, partition=to)])


def moves_of(lanes: Iterable[Lane]) -> int:
    """Return how often lanes have moved in all."""
    most: dict[str, int] = {}
    for lane in lanes:
        most[lane.workspace] = max(most.get(lane.workspace, 0), lane.moves)
    return sum(most.values())
