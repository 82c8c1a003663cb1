"""Moves, broken on purpose: each mutant must be found out by the checkers."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any
from unittest.mock import patch

import msgspec

from stream_app.domain.delivery.recorder import WriteBatch
from stream_app.domain.delivery.state_machine import mark_key
from stream_app.domain.lane.move import HandOver, encode_hand_over
from stream_app.domain.record import Record
from stream_app.partition import mover
from stream_app.partition.in_flight import InFlight
from stream_app.partition.residences import Residences
from stream_app.partition.unit_of_work import UnitOfWork
from tests.simulation.moves import move_bases, moving, unanswered
from tests.simulation.mutant import Patch, mutant
from tests.simulation.schedule import Schedule


def moves() -> Iterable[Schedule]:
    return chain(move_bases(), map(moving, range(300)))


@mutant("1", "3", "4", hunt=moves)
def rows_are_left_out() -> Patch:
    real = encode_hand_over
    return patch.object(mover, "encode_hand_over", lambda part: real(msgspec.structs.replace(part, rows=[])))


@mutant("1", "3", hunt=moves)
def rows_are_copied_and_stay() -> Patch:
    return patch.object(mover, "stays_too", lambda key: True)


@mutant("1", "2", "3", "4", "6", hunt=moves)
def a_lane_leaves_while_it_works() -> Patch:
    async def idle(self: Residences, workspace: str) -> None:
        pass

    return patch.object(Residences, "idle", idle)


@mutant("2", hunt=moves)
def what_follows_is_not_marked() -> Patch:
    real = UnitOfWork.conclude

    async def conclude(self: UnitOfWork, in_flight: InFlight, step: WriteBatch) -> None:
        mark = mark_key(in_flight.consumed.record_id)
        if any(record.partition is not None and record.topic == "leads.retry" for record in step.records):
            step = msgspec.structs.replace(step, rows=[row for row in step.rows if row[0] != mark])
        await real(self, in_flight, step)

    return patch.object(UnitOfWork, "conclude", conclude)


@mutant("2", hunt=moves)
def a_record_that_followed_is_taken_for_concluded() -> Patch:
    def find_marker(self: UnitOfWork, record_id: str, origin: str = "") -> bytes | None:
        return next((key for key in map(mark_key, (record_id, origin)) if key in self.rows), None)

    return patch.object(UnitOfWork, "find_marker", find_marker)


@mutant("1", hunt=moves)
def events_are_written_where_the_lane_is() -> Patch:
    return patch.object(UnitOfWork, "_send_home", lambda self, step: None)


@mutant("2", "6", hunt=unanswered)
def deadlines_are_left_behind() -> Patch:
    async def load_deadlines(self: UnitOfWork, workspace: str) -> None:
        pass

    return patch.object(UnitOfWork, "load_deadlines", load_deadlines)


@mutant("4", hunt=moves)
def money_is_left_behind() -> Patch:
    real = encode_hand_over

    def without(part: HandOver) -> bytes:
        lane = msgspec.json.decode(part.lane) if part.lane else None
        if lane is not None:
            lane.pop("budget", None)
            part = msgspec.structs.replace(part, lane=msgspec.json.encode(lane))
        return real(part)

    return patch.object(mover, "encode_hand_over", without)


@mutant("2", hunt=moves)
def a_lane_is_handed_over_and_nothing_follows() -> Patch:
    """The record with the marker and without the copy."""
    real = UnitOfWork.submit

    def submit(self: UnitOfWork, step: WriteBatch) -> Any:
        kept = [each for each in step.records if not _follows(each)]
        return real(self, msgspec.structs.replace(step, records=kept))

    return patch.object(UnitOfWork, "submit", submit)


def _follows(record: Record) -> bool:
    return record.topic == "leads.retry" and any(name == "stream-app-moves" for name, _ in record.headers)
