"""Reads Clay's balance of the workspaces that have an API key, while this process owns their lanes.

A reading goes into the lane, and with the lane's view to `leads.lanes`. domain/books/bill.py says
what follows from two of them.
"""

import asyncio
from typing import Final

import msgspec
from attrs import define, field

from stream_app.clock import Clock
from stream_app.domain.delivery.recorder import CommitStep
from stream_app.domain.lane.admission import Poll
from stream_app.domain.limits.balance import balance_reading
from stream_app.domain.plan import Plan
from stream_app.partition.commits import Commits
from stream_app.partition.lanes import Lanes
from stream_app.partition.poll_tokens import PollTokens
from stream_app.partition.ports import Runs

READ_EVERY_MS: Final = 600_000
_LOOK_EVERY_S: Final = 60.0


@define(eq=False, repr=False, kw_only=True)
class Balances:
    """Reads the balances of one partition's workspaces, each every ten minutes.

    One balance is read after the other. A slow answer delays the next reading, which need not be
    punctual.
    """

    _number: int
    _plan: Plan
    _clock: Clock
    _lanes: Lanes
    _tokens: PollTokens
    _commits: Commits
    _runs: Runs
    # When each balance was asked for last (epoch ms), so that one that cannot be read is not asked
    # for more often than the others. A new owner asks once more.
    _asked_ms: dict[str, int] = field(init=False, factory=dict)

    async def run(self) -> None:
        """Look every minute which balances are due, until a commit fails."""
        while True:
            for name in self._plan.residents(self._number):
                if self._is_due(name) and self._may_ask(name):
                    await self._read(name)
            await asyncio.sleep(_LOOK_EVERY_S)

    def _is_due(self, name: str) -> bool:
        # A workspace that has had no leads has no lane, and there is no bill to compare.
        if self._plan.workspaces[name].api_key_env is None or name not in self._lanes:
            return False
        last = self._lanes[name].reading
        last_ms = max(self._asked_ms.get(name, 0), 0 if last is None else last.at_ms)
        now_ms = self._clock.now_ms()
        # A reading whose time lies in the future was taken by a wrong clock, and is due again.
        return not 0 <= now_ms - last_ms < READ_EVERY_MS

    def _may_ask(self, name: str) -> bool:
        """Take a token of a lane whose leads go through the same API, with the same limit.

        Webhooks have a limit of their own.
        """
        destinations = self._plan.destinations_of(name)
        routine = next((place for place in destinations if place.kind == "routine"), None)
        if routine is None or isinstance(self._tokens.take(routine, may_probe=False), Poll):
            return True
        # The next try is a minute away, so no token is kept for it meanwhile.
        self._tokens.end(name)
        return False

    async def _read(self, name: str) -> None:
        now_ms = self._clock.now_ms()
        self._asked_ms[name] = now_ms
        before = self._lanes[name].paid
        credits_ = await self._runs.balance(name)
        if credits_ is None:
            return
        # Read after the answer: leads and operators may have changed the lane while Clay was asked.
        lane = self._lanes[name]
        self._lanes[name] = msgspec.structs.replace(
            lane,
            reading=balance_reading(lane.reading, now_ms, credits_, before, lane.paid, lane.budget),
        )
        await self._commits.submit(CommitStep([], [], [], name))
