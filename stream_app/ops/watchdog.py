"""Detects stalls: a partition that is not taken over, records that are not consumed, leads that do not end.

Everything that must make progress has a token that changes with it. What waits for a reason (an empty topic, a held
lane, a full partition) has none. So the check needs to know nothing about Kafka or leads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping

_CHECKS = 10  # for each `limit_s`


class Watchdog:
    """Compares progress tokens over time.

    Args:
        limit_s: a token that has not changed for this many seconds is a stall.
        look: returns the tokens by description.
        report: called with the descriptions of all stalls whenever they change.

    Attributes:
        stalled: the descriptions of all current stalls.
    """

    def __init__(
        self, limit_s: float, look: Callable[[], Mapping[str, Hashable]], report: Callable[[list[str]], None]
    ) -> None:
        self.stalled: list[str] = []
        self._limit_s = limit_s
        self._look = look
        self._report = report
        self._since: dict[str, tuple[Hashable, float]] = {}

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            self.check(asyncio.get_running_loop().time())
            await asyncio.sleep(self._limit_s / _CHECKS)

    def check(self, now_s: float) -> None:
        """Compare once. `now_s` is a monotonic time in seconds."""
        before, self._since = self._since, {}
        for what, token in self._look().items():
            seen = before.get(what)
            self._since[what] = seen if seen is not None and seen[0] == token else (token, now_s)
        stalled = [what for what, (_, since_s) in self._since.items() if now_s - since_s >= self._limit_s]
        if stalled != self.stalled:
            self.stalled = stalled
            self._report(stalled)
