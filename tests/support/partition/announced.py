"""A partition whose leads go to routines, and what Clay says when it is asked about their runs."""

import asyncio
from typing import Any, Final

from stream_app.domain.delivery.state_machine import item_id
from stream_app.domain.model.run import RunAnswer, RunFinished, RunGone, RunItem
from tests.simulation.schedule import Setup
from tests.support.partition.bench import HELD, Bench

ROUTINE: Final = Setup(routines=True)
HELD_NOW: Final = {"reservation": None, "booked": HELD}


class RunsAtClay:
    """What Clay says of runs: the next of the `first` answers of a run, then the `last` one."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, float]] = []
        self.first: dict[str, list[RunAnswer]] = {}
        self.last: dict[str, RunAnswer] = {}
        self.takes_s = 0.5

    async def results(self, destination: str, run: str) -> RunAnswer:
        self.asked.append((run, asyncio.get_running_loop().time()))
        await asyncio.sleep(self.takes_s)
        if waiting := self.first.get(run):
            return waiting.pop(0)
        return self.last.get(run, RunGone(404, "run not found"))

    async def balance(self, workspace: str) -> float | None:
        return None

    @property
    def runs(self) -> list[str]:
        return [run for run, _ in self.asked]

    def finish(self, run: str, *keys: bytes, **outputs: Any) -> None:
        """Let a run have finished, with an item of each of these leads."""
        results = outputs or {"title": "CTO", "credits": 7, "actions": 1}
        items = (RunItem(item_id(key), "complete", results) for key in keys)
        self.last[run] = RunFinished(tuple(items))


class RoutineBench(Bench):
    """A bench whose leads go to routines."""

    def __init__(self, setup: Setup = ROUTINE, **others: Any) -> None:
        self.at_clay = RunsAtClay()
        super().__init__(setup, runs=self.at_clay, **others)
        self.change_destination(run_webhook="wh_1")
