"""Hands lanes over to the owners of other partitions (docs/decisions/09-moving-a-lane.md).

A row is here or in a record for the new owner: the transaction that writes the record deletes the row. So a crash at
any point leaves each row in one place, and the next owner of this partition continues.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from stream_app.domain.delivery.recorder import Rows, WriteBatch
from stream_app.domain.delivery.state_machine import lane_key
from stream_app.domain.errors import StateStoreError
from stream_app.domain.lane.move import (
    HandOver,
    Residence,
    chunks_of,
    encode_hand_over,
    encode_residence,
    hand_over_key,
    residence_key,
    rows_to_move,
    stays_too,
)
from stream_app.domain.policy import Plan
from stream_app.domain.record import Record
from stream_app.partition.unit_of_work import UnitOfWork

_AT_ONCE: Final = 4  # chunks that are submitted before the first is committed: memory stays bounded


class Mover:
    """Moves the lanes of partition `number` on which a move was ordered."""

    def __init__(self, number: int, plan: Plan, state: UnitOfWork) -> None:
        self._number = number
        self._plan = plan
        self._state = state

    async def run(self) -> None:
        """Move lanes. Returns when a commit fails; `PartitionOwner` runs it again."""
        residences = self._state.residences
        try:
            while True:
                for name in residences.to_hand_over():
                    await self._move(name)
                if not residences.to_hand_over():
                    await residences.changed()
        except StateStoreError:
            return  # the committer has reported it

    async def _move(self, name: str) -> None:
        residences = self._state.residences
        move = residences.of(name)
        assert move is not None  # it is on its way out
        if move.phase == "draining":
            await residences.idle(name)
            move = msgspec.structs.replace(move, phase="leaving")
            # The lane's row is written by every step that changes it: this is the last one before its rows leave.
            await self._state.submit(WriteBatch([_row(name, move)], [], [], name))
        under_way: list[asyncio.Future[None]] = []
        for rows in chunks_of(rows_to_move(name, self._state.rows.items())):
            if len(under_way) >= _AT_ONCE:
                await under_way.pop(0)
            record = self._record(name, move, rows)
            move = msgspec.structs.replace(move, chunks=move.chunks + 1)
            gone: Rows = [(key, None) for key, _ in rows if not stays_too(key)]
            under_way.append(self._state.submit(WriteBatch([*gone, _row(name, move)], [record], [])))
        for each in under_way:
            await each
        lane, view = self._state.lanes.depart(name, move.moves, move.other)
        left = msgspec.structs.replace(move, phase="left", chunks=0)
        record = self._record(name, move, [], lane)
        await self._state.submit(WriteBatch([(lane_key(name), None), _row(name, left)], [record, view], []))
        self._state.left(name)

    def _record(self, name: str, move: Residence, rows: list[tuple[bytes, bytes]], lane: bytes = b"") -> Record:
        part = HandOver(name, move.moves, self._number, move.home, move.chunks, rows, lane)
        return Record(self._plan.topics.moves, hand_over_key(part), encode_hand_over(part), (), move.other)


def _row(name: str, residence: Residence) -> tuple[bytes, bytes]:
    return residence_key(name), encode_residence(residence)
