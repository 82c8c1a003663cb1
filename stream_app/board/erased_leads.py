"""Checks for a callback whether its lead was erased, so that its data is not written to Kafka again."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from typing import Final

from stream_app.board.read_model.follow import ProjectionLag
from stream_app.board.read_model.project import DAY_MS
from stream_app.board.read_model.query import Queries

_WITHIN_S: Final = 4.0
_AGAIN_S: Final = 0.1


class ErasedLeads:
    """Checks erasures in the read model, which keeps the events of a lead for `status_days`."""

    def __init__(self, queries: Queries, lag: Callable[[], ProjectionLag], status_days: int) -> None:
        self._queries = queries
        self._lag = lag
        self._kept_ms = status_days * DAY_MS

    async def is_forgotten(self, workspace: str, lead_id: str, at_ms: int) -> bool:
        """Return True if a lead was erased and not sent again since. Never raises.

        An erased lead may have been published again a moment ago. So the answer is only True when the read model holds
        everything that was on Kafka when the callback came (`at_ms`); a callback of an erased lead waits some seconds
        for that.
        """
        deadline = time.monotonic() + _WITHIN_S
        while await self._ask(workspace, lead_id, at_ms - self._kept_ms):
            if (self._lag().as_of_ms or 0) >= at_ms:
                return await self._ask(workspace, lead_id, at_ms - self._kept_ms)
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(_AGAIN_S)
        return False

    async def _ask(self, workspace: str, lead_id: str, since_ms: int) -> bool:
        try:
            return await asyncio.to_thread(self._queries.is_forgotten, workspace, lead_id, since_ms)
        except sqlite3.Error:
            return False  # the file is rebuilt, and `Projection` reports the error
