"""A fake of Clay for routines: each POST begins a run, whose results can be asked for."""

import asyncio
import json
from collections import defaultdict

from stream_app.domain.model.outcome import Accepted, Outcome
from stream_app.domain.model.run import RunAnswer, RunFinished, RunItem, RunUnfinished
from tests.support.partition.clay import SlowClay
from tests.support.partition.virtual import now_ms


class RoutineClay(SlowClay):
    """Begins a run for each POST, `run_1` first, and finishes it `finishes_s` later.

    Attributes:
        scripted: Answers to polls that are given first, in order, whatever the run is.
        of_run: Answers about single runs, in place of its own.
        polls: When each run was polled, in ms since the epoch.
        credits_left: The answer about the balance.
        poll_s: How long a poll takes.
    """

    def __init__(self, takes_s: float = 0.1) -> None:
        super().__init__(takes_s)
        self.finishes_s = 5.0
        self.poll_s = 0.1
        self.scripted: list[RunAnswer] = []
        self.of_run: dict[str, RunAnswer] = {}
        self.polls: defaultdict[str, list[int]] = defaultdict(list)
        self.posts_ms: list[int] = []
        self.balances = 0
        self.credits_left: float | None = 1_000.0
        self._finished_ms: dict[str, int] = {}
        self._items: dict[str, str] = {}

    async def send(self, destination: str, webhook_id: str, body: bytes, trace_id: str) -> Outcome:
        self.posts_ms.append(now_ms())
        outcome = await super().send(destination, webhook_id, body, trace_id)
        if not isinstance(outcome, Accepted) or outcome.run:
            return outcome
        run = f"run_{len(self._items) + 1}"
        self._items[run] = json.loads(body)["items"][0]["id"]
        self._finished_ms[run] = now_ms() + round(self.finishes_s * 1000)
        return Accepted(202, outcome.latency_ms, run=run)

    async def results(self, destination: str, run: str) -> RunAnswer:
        self.polls[run].append(now_ms())
        await asyncio.sleep(self.poll_s)
        if self.scripted:
            return self.scripted.pop(0)
        if run in self.of_run:
            return self.of_run[run]
        if now_ms() < self._finished_ms[run]:
            return RunUnfinished()
        return self.finished(run)

    def finished(self, run: str, **item: object) -> RunFinished:
        """The results of a run whose item ended like this."""
        given = {"status": "complete", "outputs": {"title": "CTO", "credits": 7, "actions": 1}}
        own = RunItem(self._items[run], **{**given, **item})  # type: ignore[arg-type]  # mixed values
        return RunFinished((own,))

    async def balance(self, workspace: str) -> float | None:
        self.balances += 1
        await asyncio.sleep(self.poll_s)
        return self.credits_left

    @property
    def all_polls(self) -> list[int]:
        """When any run was polled, in their order."""
        return sorted(at_ms for polls in self.polls.values() for at_ms in polls)
