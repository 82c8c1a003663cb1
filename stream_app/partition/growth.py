"""The first steps of an owner in a system whose partitions grew (docs/decisions/10-more-partitions.md).

A partition that was added has no suppression list. Its owner copies that of partition 0, with the commands that have
changed it, and processes nothing before. It waits until the owner of partition 0 knows of the new partitions. From then
on, partition 0 refuses a change of the list that was not sent to the new partitions, too. So the copy, and the commands
of the partition itself, are complete.

A configuration may lack `hashed_partitions`, or have a wrong one. Then an owner would take an added partition for a
complete one, and another home of a workspace for its own. So it first compares its configuration with the layout in
partition 0, if its own partition has none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from itertools import chain, repeat
from typing import Final

import msgspec

from stream_app.domain.delivery.recorder import WriteBatch
from stream_app.domain.errors import BrokerUnavailable, StateStoreError
from stream_app.domain.lane.command import copy_for_new_partition, is_of_list
from stream_app.domain.lane.move import chunks_of
from stream_app.domain.layout import LAYOUT_KEY, Layout, decode_layout, encode_layout
from stream_app.domain.policy import Plan
from stream_app.partition.ports import Observer, StateStore
from stream_app.partition.state import Rows, RowUnreadable, unreadable

_PAUSE_S: Final = 1.0
_FIRST_PAUSES_S: Final = (0.1, 0.2, 0.4)  # at the start of a new system, partition 0 is about to have its layout
_FAR: Final = 1_000  # offsets: so many records are read in a moment


class Growth:
    """Completes one partition, and records how many partitions there are."""

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
        self._agrees = number == 0  # the configuration and partition 0 agree, as far as that can be known
        self._was_served = False  # it has processed records
        self._waits = False

    @property
    def is_complete(self) -> bool:
        """True if the partition has the whole suppression list."""
        return LAYOUT_KEY in self._rows or (self._agrees and self._number < self._plan.hashed)

    def check(self, rows: Mapping[bytes, bytes]) -> None:
        """Look at the partition's rows before they are used.

        A partition that was added and is not complete has a part of the suppression list at most. In a system that
        never grew, one with other rows does not wait for an owner of partition 0 that records no layout: one of an
        earlier version.

        Raises:
            RowUnreadable: The configuration hashes workspaces to other homes than before.
        """
        if (known := layout_of(rows.get(LAYOUT_KEY))) is not None:
            self._compare(known)
        self._was_served = not all(map(is_of_list, rows))

    async def run(self) -> bool:
        """Complete the partition, if it is not complete, and record the layout, if it is new.

        Returns:
            False if a commit failed. The partition is then taken over again.

        Raises:
            RowUnreadable: The configuration hashes workspaces to other homes than before, or a row does not decode.
        """
        try:
            far = not self.is_complete and await self._compare_with_partition_0() >= _FAR
            while not self.is_complete:
                self._report()
                await self._complete()
            known, plan = layout_of(self._rows.get(LAYOUT_KEY)), self._plan
            is_grown = plan.hashed < plan.partitions > (known.partitions if known else 0)
            if is_grown or (known is None and (far or self._number == 0)):
                await self._submit(WriteBatch([self._layout()], [], []))
        except StateStoreError:
            return False  # the committer has reported it
        return True

    async def _compare_with_partition_0(self) -> int:
        """Compare the configuration with the layout in partition 0, as soon as it is there. A new system has none.

        Returns:
            The offset of the layout, 0 without one.
        """
        pauses = chain(_FIRST_PAUSES_S, repeat(_PAUSE_S))
        while True:
            pause_s = next(pauses)
            try:
                began = await self._store.beginning()
                if began.layout is not None:
                    self._compare(began.layout)
                never_grew = self._was_served and self._plan.hashed == self._plan.partitions
                if began.layout is not None or began.is_new or never_grew:
                    self._agrees = True
                    return began.offset
                if pause_s == _PAUSE_S:
                    self._report()
            except BrokerUnavailable as error:
                self._observer.recovering(self._number, error)
            await asyncio.sleep(pause_s)

    def _report(self) -> None:
        if not self._waits:
            self._waits = True
            self._observer.incomplete(self._number)

    async def _complete(self) -> None:
        try:
            found = await self._store.suppression_list(self._plan.partitions)
        except BrokerUnavailable as error:
            self._observer.recovering(self._number, error)
            await asyncio.sleep(_PAUSE_S)
            return
        copied = _copy_of_list(found)
        if not self._was_served:  # then its rows of the list are of a copy that was interrupted
            gone = {key for key in self._rows if is_of_list(key)} - {key for key, _ in copied}
            await self._submit(WriteBatch([(key, None) for key in sorted(gone)], [], []))
        for rows in chunks_of(copied):
            await self._submit(WriteBatch([*rows], [], []))
        await self._submit(WriteBatch([self._layout()], [], []))

    def _compare(self, known: Layout) -> None:
        hashed = self._plan.hashed
        if known.hashed != hashed:
            raise RowUnreadable(
                f"partition {self._number}: the names of workspaces are hashed over {known.hashed} partitions, the "
                f"configuration says {hashed}: set kafka.hashed_partitions = {known.hashed}"
            )

    def _layout(self) -> tuple[bytes, bytes]:
        return LAYOUT_KEY, encode_layout(Layout(self._plan.hashed, self._plan.partitions))


def _copy_of_list(rows: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    copied: list[tuple[bytes, bytes]] = []
    for key, value in rows:
        try:
            copy = copy_for_new_partition(key, value)
        except msgspec.DecodeError as error:
            raise unreadable(key, str(error)) from None
        if copy is not None:
            copied.append((key, copy))
    return copied


def layout_of(row: bytes | None) -> Layout | None:
    """Return the layout in a row of the partition. Raises RowUnreadable."""
    try:
        return None if row is None else decode_layout(row)
    except msgspec.DecodeError as error:
        raise unreadable(LAYOUT_KEY, str(error)) from None
