"""The first steps of an owner in a system whose partitions grew (docs/decisions/10-more-partitions.md).

A partition that was added has no suppression list. Its owner copies that of partition 0, and processes nothing before.
It waits until the owner of partition 0 knows of the new partitions. From then on, partition 0 refuses a change of the
list that was not sent to the new partitions, too. So the copy, and the commands of the partition itself, are complete.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from stream_app.domain.delivery.recorder import WriteBatch
from stream_app.domain.errors import BrokerUnavailable, StateStoreError
from stream_app.domain.lane.move import chunks_of
from stream_app.domain.layout import LAYOUT_KEY, Layout, decode_layout, encode_layout
from stream_app.domain.policy import Plan
from stream_app.partition.ports import Observer, StateStore
from stream_app.partition.state import Rows, RowUnreadable, unreadable

_PAUSE_S: Final = 1.0


class Growth:
    """Completes one partition, and records how many partitions there are.

    Args:
        number: The partition.
        plan: The configuration.
        rows: The partition's rows.
        store: Reads the list of partition 0.
        submit: Writes a step.
        observer: Gets that the partition waits, and that Kafka cannot be read.
    """

    def __init__(
        self,
        number: int,
        plan: Plan,
        rows: Rows,
        store: StateStore,
        submit: Callable[[WriteBatch], asyncio.Future[None]],
        observer: Observer,
    ) -> None:
        self._number = number
        self._plan = plan
        self._rows = rows
        self._store = store
        self._submit = submit
        self._observer = observer

    @property
    def is_complete(self) -> bool:
        """True if the partition has the whole suppression list."""
        return self._number < self._plan.hashed or LAYOUT_KEY in self._rows

    def check(self) -> None:
        """Raise RowUnreadable if the configuration hashes workspaces to other homes than before."""
        known, hashed = self._known(), self._plan.hashed
        if known is not None and known.hashed != hashed:
            raise RowUnreadable(
                f"partition {self._number}: the names of workspaces are hashed over {known.hashed} partitions, the "
                f"configuration says {hashed}: set kafka.hashed_partitions = {known.hashed}"
            )

    async def run(self) -> bool:
        """Complete the partition, if it is not complete, and record the layout, if it is new.

        Returns:
            False if a commit failed. The partition is then taken over again.
        """
        done = False
        try:
            if not self.is_complete:
                self._observer.incomplete(self._number)
            while not self.is_complete:
                await self._complete()
            known = self._known()
            if self._plan.hashed < self._plan.partitions > (known.partitions if known else 0):
                await self._submit(WriteBatch([self._layout()], [], []))
            done = True
        except StateStoreError:
            pass  # the committer has reported it
        return done

    async def _complete(self) -> None:
        try:
            found = await self._store.suppression_list(self._plan.partitions)
        except BrokerUnavailable as error:
            self._observer.recovering(self._number, error)
            await asyncio.sleep(_PAUSE_S)
            return
        for rows in chunks_of(found):
            await self._submit(WriteBatch([*rows], [], []))
        await self._submit(WriteBatch([self._layout()], [], []))

    def _layout(self) -> tuple[bytes, bytes]:
        return LAYOUT_KEY, encode_layout(Layout(self._plan.hashed, self._plan.partitions))

    def _known(self) -> Layout | None:
        return layout_of(self._rows.get(LAYOUT_KEY))


def layout_of(row: bytes | None) -> Layout | None:
    """Return the layout in a row of the partition. Raises RowUnreadable."""
    try:
        return None if row is None else decode_layout(row)
    except msgspec.DecodeError as error:
        raise unreadable(LAYOUT_KEY, str(error)) from None
