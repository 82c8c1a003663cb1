"""A partition whose leads go to routines."""

import asyncio
from typing import Any, Final

import msgspec

from stream_app.domain.model.run import RunAnswer
from stream_app.domain.views.lane import LaneView
from tests.simulation.schedule import Setup
from tests.support.partition.bench import Bench
from tests.support.partition.runs import RoutineClay

SETUP: Final = Setup(routines=True, max_in_flight=100)
AT_CLAY: Final = ["received", "sending", "accepted"]
"""The states of a lead that waits for its run."""


class Routines(Bench):
    """A partition whose destinations are routines."""

    clay: RoutineClay

    def __init__(self, setup: Setup = SETUP, **of_worker: Any) -> None:
        super().__init__(setup, 0.1, clay=RoutineClay, **of_worker)

    def change_destination(self, **changes: Any) -> None:
        destination = self.plan.destinations["acme-main"]
        changed = msgspec.structs.replace(destination, **changes)
        self.plan.destinations["acme-main"] = changed

    async def one(self, answer: RunAnswer | None = None, for_s: float = 20.0) -> None:
        """One lead, whose run answers this and nothing else."""
        if answer is not None:
            self.clay.of_run["run_1"] = answer
        self.publish("id0", "p0")
        await self.serve_for(for_s)

    def shown(self) -> LaneView:
        """The newest view of the lane."""
        [*_, newest] = self.committed(self.plan.topics.lanes)
        return msgspec.json.decode(newest.value or b"", type=LaneView)

    async def settled(self, count: int, within_s: float = 10_000.0) -> None:
        """Wait until so many leads have their results."""
        async with asyncio.timeout(within_s):
            while len(self.results()) < count:  # noqa: ASYNC110  # what is committed has no event
                await asyncio.sleep(1.0)
