"""The worker's shell: hands each topic-partition that Faust assigns to the partition that owns it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping

from stream_app.partition.in_flight import Source
from stream_app.partition.owner import PartitionOwner
from stream_app.partition.ports import PartitionStream


class Worker:
    """The owner of all partitions of this process. `build` makes one; its state is read before its first lead."""

    def __init__(self, build: Callable[[int], PartitionOwner]) -> None:
        self._build = build
        self.partitions: dict[int, PartitionOwner] = {}

    async def assigned(self, partitions: set[int]) -> None:
        """Newly ours: fence and load all of them, side by side."""
        new = {number: self._build(number) for number in sorted(partitions - self.partitions.keys())}
        try:
            await asyncio.gather(*(partition.take_over() for partition in new.values()))
        except BaseException:
            await asyncio.gather(*(partition.close() for partition in new.values()))
            raise
        self.partitions.update(new)

    async def revoked(self, partitions: set[int]) -> None:
        """No longer ours: forget them at once."""
        gone = [self.partitions.pop(number) for number in partitions & self.partitions.keys()]
        await asyncio.gather(*(partition.close() for partition in gone))

    def under_way(self, assigned: Mapping[tuple[str, int], bool]) -> dict[str, Hashable]:
        """All that has to move by itself, for the watchdog. `assigned`: topic and partition -> records wait there."""
        seen: dict[str, Hashable] = {}
        for (topic, number), records_wait in assigned.items():
            partition = self.partitions.get(number)
            if partition is None:
                seen[f"partition {number} is assigned and not taken over"] = None
            elif records_wait and (consumed := partition.takes(topic)) is not None:
                seen[f"nobody takes the records of {topic}/{number}"] = consumed
        for partition in self.partitions.values():
            seen |= partition.under_way()
        return seen

    def handler(self, source: Source) -> Callable[[PartitionStream], Awaitable[None]]:
        """What Faust runs for each partition of a lead topic."""

        async def serve(stream: PartitionStream) -> None:
            await self.partitions[stream.partition].serve(stream, source)

        return serve
