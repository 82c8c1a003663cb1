"""Notices what should move and stands still: a partition that nobody takes over, leads that nobody takes or ends.

Whatever has to move by itself shows a token that changes when it does. What waits for a reason (an empty topic, a held
lane, a full partition) shows none. So the check knows nothing of Kafka or of leads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping

_CHECKS = 10  # in the time that something may stand still


class Watchdog:
    """`look` gives the tokens by what a person would call the thing; `told` is given all that stand still, on change.

    still  what has not moved for `limit_s` now, one line each.
    """

    def __init__(
        self, limit_s: float, look: Callable[[], Mapping[str, Hashable]], told: Callable[[list[str]], None]
    ) -> None:
        self.still: list[str] = []
        self._limit_s = limit_s
        self._look = look
        self._told = told
        self._since: dict[str, tuple[Hashable, float]] = {}

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            self.check(asyncio.get_running_loop().time())
            await asyncio.sleep(self._limit_s / _CHECKS)

    def check(self, now_s: float) -> None:
        """Look once. `now_s` never goes back."""
        before, self._since = self._since, {}
        for what, token in self._look().items():
            seen = before.get(what)
            self._since[what] = seen if seen is not None and seen[0] == token else (token, now_s)
        still = [what for what, (_, since_s) in self._since.items() if now_s - since_s >= self._limit_s]
        if still != self.still:
            self.still = still
            self._told(still)
