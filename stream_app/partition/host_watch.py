"""Asks Clay's host while the breaker of a lane is open, so that the end of an outage is found without wasted leads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from stream_app.domain.lane.lane import host_checked
from stream_app.domain.policy import Destination, Plan
from stream_app.partition.lanes import Lanes
from stream_app.partition.ports import Clock, HostAnswers

_EVERY_S: Final = 1.0


class HostWatch:
    """The lanes of one partition whose breaker holds leads. A healthy partition does no work here.

    `host_answers` asks the host of a destination. `pump` is called with a workspace whose probe may have become due.
    """

    def __init__(
        self, plan: Plan, lanes: Lanes, clock: Clock, host_answers: HostAnswers, pump: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._lanes = lanes
        self._clock = clock
        self._host_answers = host_answers
        self._pump = pump
        self._held: dict[str, str] = {}
        self._found = asyncio.Event()

    def note(self, destination: Destination) -> None:
        """Note that the breaker holds a lead of this destination."""
        self._held[destination.workspace] = destination.alias
        self._found.set()

    async def run(self) -> None:
        """Check the hosts of the held lanes every second. Until cancelled."""
        while True:
            await self._found.wait()
            now_ms = self._clock.now_ms()
            for name in [name for name in self._held if self._lanes[name].breaker.until_ms <= now_ms]:
                del self._held[name]
            if not self._held:
                self._found.clear()
                continue
            asked = dict(self._held)
            answers = await asyncio.gather(*(self._host_answers(alias) for alias in asked.values()))
            for name, answer in zip(asked, answers, strict=True):
                if (policy := self._plan.workspaces.get(name)) is not None:  # else a reload has removed it
                    self._lanes[name] = host_checked(policy, self._lanes[name], answer, self._clock.now_ms())
                    self._pump(name)
            await asyncio.sleep(_EVERY_S)
