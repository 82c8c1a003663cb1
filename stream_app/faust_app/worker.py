"""The partitions that this process owns, each fed by the agents of its topics."""

from __future__ import annotations

import asyncio
from collections import ChainMap
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any, Final

from stream_app.domain.model.topics import TopicNames
from stream_app.faust_app.app import App
from stream_app.faust_app.stream import Generations
from stream_app.partition.in_flight import Source
from stream_app.partition.owner import PartitionOwner
from stream_app.partition.ports import RecordStream

# Each take-over has a time limit, which must not run while it waits for its turn.
_AT_ONCE: Final = 64


async def _keep() -> None:
    """Keep the configuration."""


class Worker:
    """Creates a `PartitionOwner` for each assigned partition, and closes it when that is revoked.

    Args:
        build: Creates the owner of a partition. The owner loads its state before it accepts a
            record.
        refresh: Brings the configuration up to date. A process without partitions gets no command
            to do so.
    """

    def __init__(
        self,
        build: Callable[[int], PartitionOwner],
        refresh: Callable[[], Awaitable[None]] = _keep,
    ) -> None:
        self._build = build
        self._refresh = refresh
        self.partitions: dict[int, PartitionOwner] = {}

    @property
    def rows(self) -> Mapping[bytes, bytes]:
        """The rows of all partitions that this process owns, for the Faust table.

        The rows of the lanes are among them.
        """
        states = [partition.state for partition in self.partitions.values()]
        maps: list[Any] = [rows for state in states for rows in (state.rows, state.lanes.rows())]
        return ChainMap(*maps)

    async def assigned(self, partitions: set[int]) -> None:
        """Fence and load newly assigned partitions, several at once.

        If one fails, all of them are closed.
        """
        if not self.partitions:
            await self._refresh()
        new = {
            number: self._build(number) for number in sorted(partitions - self.partitions.keys())
        }
        free = asyncio.Semaphore(_AT_ONCE)

        async def take_over(partition: PartitionOwner) -> None:
            async with free:
                await partition.take_over()

        try:
            await asyncio.gather(*map(take_over, new.values()))
        except BaseException:
            await asyncio.gather(*(partition.close() for partition in new.values()))
            raise
        self.partitions.update(new)

    async def revoked(self, partitions: set[int]) -> None:
        gone = [self.partitions.pop(number) for number in partitions & self.partitions.keys()]
        await asyncio.gather(*(partition.close() for partition in gone))

    @property
    def failing(self) -> list[str]:
        """Why partitions can commit nothing now."""
        return [partition.failing for partition in self.partitions.values() if partition.failing]

    def under_way(self, assigned: Mapping[tuple[str, int], bool]) -> dict[str, Hashable]:
        """Report to the watchdog what must make progress.

        Args:
            assigned: for each assigned topic and partition, whether records wait there.

        Returns:
            A progress token for each description. A token that does not change for too long is a
            stall.
        """
        seen: dict[str, Hashable] = {}
        for (topic, number), records_wait in assigned.items():
            partition = self.partitions.get(number)
            if partition is None:
                seen[f"partition {number} is assigned and not taken over"] = None
            elif records_wait and (received := partition.runner.received(topic)) is not None:
                seen[f"the records of {topic}/{number} are not consumed"] = received
        for partition in self.partitions.values():
            seen |= partition.under_way()
        return seen

    async def serve(self, records: RecordStream, source: Source) -> None:
        """Process the records of one topic-partition in one generation of the group."""
        await self.partitions[records.partition].runner.serve(records, source)


def define_agents(app: App, topics: TopicNames, worker: Worker) -> None:
    """Add the worker's agents to the app.

    Faust starts each agent once for every assigned partition of its topic. The agent passes the
    records to the owner of that partition, and the pipeline for that kind of record processes them.
    An importable app for `faust worker` does not exist, because that program has no place to open
    transactions, Clay and metrics before the process joins its group, and to close them after it
    has left.
    """

    def define(topic: str, source: Source) -> None:
        @app.agent(topic)
        async def serve(generations: Generations) -> None:
            async for records in generations:
                await worker.serve(records, source)

    for topic, source in sources_of(topics).items():
        define(topic, source)


def sources_of(topics: TopicNames) -> dict[str, Source]:
    """Map each topic that the worker consumes to its source.

    The source of a record chooses its pipeline and its priority, and labels it in metrics.
    """
    return {
        topics.leads: "hot",
        # dead-lettered and deferred leads that the replay app has brought back
        topics.retry: "retry",
        topics.bulk: "bulk",
        topics.callbacks: "callback",  # what Clay posted to the gateway
        topics.commands: "command",
    }
