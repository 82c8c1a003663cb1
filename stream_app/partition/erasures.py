"""Makes Kafka compact erased results, even if a partition of `leads.enriched` gets no other records.

A broker compacts closed segments only, and closes a segment only when a record is appended. So in an idle partition an
erased result would stay on disk behind its tombstone for ever. Some time after an erasure one more record, the seal, is
appended. It starts a new segment, and the one with the tombstone is compacted: see docs/reference/kafka.md.
"""

from __future__ import annotations

import asyncio
from typing import Final

from stream_app.domain.delivery.recorder import WriteBatch
from stream_app.domain.result import seal
from stream_app.domain.topics import ERASED_LAG_MS
from stream_app.partition.state import PartitionState

_LOOK_EVERY_S: Final = 600.0
_SEAL_AFTER_MS: Final = ERASED_LAG_MS + 3_600_000
_FORGET_AFTER_MS: Final = 7 * 86_400_000
"""A seal that is older than this is not written any more."""


class Erasures:
    """Writes the seals of one partition. A new owner of the partition may write one again."""

    def __init__(self, state: PartitionState) -> None:
        self._plan = state.plan
        self._rows = state.rows
        self._clock = state.clock
        self._commits = state.commits
        self._sealed_until_ms = 0

    async def run(self) -> None:
        """Look every ten minutes, until cancelled."""
        while True:
            self._seal(self._clock.now_ms())
            await asyncio.sleep(_LOOK_EVERY_S)

    def _seal(self, now_ms: int) -> None:
        due_ms = now_ms - _SEAL_AFTER_MS
        since_ms = max(self._sealed_until_ms, now_ms - _FORGET_AFTER_MS)
        workspaces = {name for name, erased_ms in self._rows.erasures() if since_ms < erased_ms <= due_ms}
        if workspaces:
            self._commits.submit(WriteBatch([], [seal(self._plan.topics.enriched, min(workspaces))], []))
        self._sealed_until_ms = due_ms
