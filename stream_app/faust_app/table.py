"""The worker's state as a Faust table whose store reads the rows that the partition owners hold in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, Protocol

import faust
from faust.stores import memory


class Owner(Protocol):
    """Holds the state of the partitions that this process owns.

    Calls of `assigned` and `revoked` do not overlap. An exception raised by either stops the worker.
    """

    @property
    def rows(self) -> Mapping[bytes, bytes]:
        """The rows of all owned partitions by key. A row may be one transaction ahead of the state topic."""

    async def assigned(self, partitions: set[int]) -> None:
        """Fence and load newly assigned partitions. Faust delivers none of their records before this returns.

        A rebalance or a stop cancels the call. `revoked` is then called for all of `partitions`.
        """

    async def revoked(self, partitions: set[int]) -> None:
        """Drop the state of revoked partitions at once. Not called when the worker stops."""


class StateTable(faust.Table):  # type: ignore[misc]  # faust ships no types
    """A read-only view of the state: `app.tables[name][key]` is the row of an owned partition.

    The state topic is the changelog. Rows are written to it by the transactions of the partition's owner, never by
    Faust, so that a row is committed together with its events.
    """

    def __init__(self, app: Any, *, owner: Owner, **options: Any) -> None:
        super().__init__(app, key_type=bytes, value_type=bytes, **options)
        self._owner = owner

    def on_key_set(self, key: bytes, value: bytes) -> NoReturn:
        """Refuse a write."""
        raise TypeError("the state table is read-only: write rows with the partition's TransactionalState")

    def on_key_del(self, key: bytes) -> NoReturn:
        """Refuse a deletion."""
        raise TypeError("the state table is read-only: delete rows with the partition's TransactionalState")

    def _new_store(self) -> StateStore:
        store = StateStore("memory://", self.app, self, table_name=self.name, loop=self.loop)
        store.owner = self._owner
        return store


class StateStore(memory.Store):  # type: ignore[misc]  # faust ships no types
    """Reads the owner's rows, and passes on which partitions were assigned and revoked.

    Upstream's in-memory store keeps one dict for all partitions and fills it from the changelog row by row. This store
    has no rows of its own: the owner loads them in bulk after it has fenced the previous owner.
    """

    owner: Owner

    def __post_init__(self) -> None:
        self.owned: set[int] = set()

    @property
    def data(self) -> Mapping[bytes, bytes]:
        """The rows of all owned partitions."""
        return self.owner.rows

    async def on_rebalance(
        self, assigned: set[Any], revoked: set[Any], newly_assigned: set[Any], generation_id: int = 0
    ) -> None:
        """Revoke the partitions that this process no longer owns, or all if the group had evicted it."""
        topic = self.table.changelog_topic_name
        kept = set() if self.app.consumer.was_evicted else {tp.partition for tp in assigned if tp.topic == topic}
        lost = self.owned - kept
        if lost:
            self.owned -= lost
            await self.owner.revoked(lost)

    async def on_recovery_completed(self, active_tps: set[Any], standby_tps: set[Any]) -> None:
        """Have the owner load the newly assigned partitions."""
        new = {tp.partition for tp in active_tps} - self.owned
        if not new:
            return
        try:
            await self.owner.assigned(new)
        except BaseException:
            await self.owner.revoked(new)
            raise
        self.owned |= new
