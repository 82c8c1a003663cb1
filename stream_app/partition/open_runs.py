"""Which lead of this partition a run of a routine belongs to.

An announcement names only the run. The row of an accepted lead has the id of its run. The row of a
lead whose send is uncertain has none, because the id came with the answer that was lost. But the
results of a run have the item of its lead, so these few leads are kept here by their items, and no
announcement has to read all rows.

`OpenRuns` is filled by one scan of the rows when the partition is taken over, and follows each
change of a row from then on. Runs that have settled their leads are remembered up to a bound,
because Clay may deliver their announcements again, and so may Kafka after a crash.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from attrs import define, field

from stream_app.domain.callback.interpret import UNANSWERED, open_run
from stream_app.domain.delivery.state_machine import (
    CALLBACK,
    Delivery,
    item_id,
    lead_of,
    match_callback,
    read_delivery,
)
from stream_app.domain.model.errors import RowUnreadable
from stream_app.domain.model.messages import Status
from stream_app.domain.plan import Plan

MAX_SETTLED: Final = 10_000
"""How many runs are remembered after their leads were settled. They take about 2 MB."""
_SLICE: Final = 5_000  # Reading this many rows takes some milliseconds.
_IN_DOUBT: Final = frozenset[Status]({"sending", "send_uncertain"})
_SETTLED: Final = tuple(f'{state}"'.encode() for state in CALLBACK)


class RoutinePlace(NamedTuple):
    """A routine, as a destination of a workspace."""

    workspace: str
    destination: str


class _Place(NamedTuple):
    """How a lead is found.

    Attributes:
        routine: The routine that it was sent to.
        run: Its run, which the worker asks about; '' if it has none.
        accepted_ms: When Clay accepted the POST that began that run, epoch ms.
        item: Its item, if a run that nobody knows may belong to it; '' if none can.
        is_sending: True if this worker's POST is under way, so that its run may be known in a
            moment.
    """

    routine: RoutinePlace
    run: str
    accepted_ms: int
    item: str
    is_sending: bool


@define(eq=False, repr=False)
class OpenRuns:
    """The leads of routines that a run may settle, by run and by item.

    Attributes:
        are_loaded: Set once all rows have been read.
    """

    _plan: Plan
    _leads: dict[tuple[RoutinePlace, str], bytes] = field(init=False, factory=dict)
    _items: dict[tuple[RoutinePlace, str], bytes] = field(init=False, factory=dict)
    _sending: Counter[RoutinePlace] = field(init=False, factory=Counter)
    _in_doubt: Counter[RoutinePlace] = field(init=False, factory=Counter)
    _open: Counter[str] = field(init=False, factory=Counter)  # by workspace
    _places: dict[bytes, _Place] = field(init=False, factory=dict)
    _settled: OrderedDict[tuple[RoutinePlace, str], None] = field(init=False, factory=OrderedDict)
    _routines: dict[bytes, RoutinePlace | None] = field(init=False, factory=dict)
    are_loaded: asyncio.Event = field(init=False, factory=asyncio.Event)

    def clear(self) -> None:
        """Forget all leads: the rows are replaced."""
        for known in (self._leads, self._items, self._sending, self._in_doubt, self._open):
            known.clear()
        self._places.clear()
        self._settled.clear()  # The steps that settled them may not have been committed.
        self.are_loaded.clear()

    async def load(self, keys: Sequence[bytes], read: Callable[[bytes], bytes | None]) -> None:
        """Read the rows of these keys, a slice at a time.

        A row that changes meanwhile is noted by its change, too, and is read here as it is then. If
        a predecessor has settled a run and could not ack its announcement, that comes again. So the
        runs of the newest settled leads are remembered, and no other row of a settled lead is
        decoded.

        Args:
            keys: The keys of the rows, oldest first.
            read: Returns a row as it is now; None if it is deleted.
        """
        settled: list[tuple[RoutinePlace, str]] = []
        for number, key in enumerate(reversed(keys) if self._plan.routines else ()):
            if number % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            raw = read(key)
            self.note(key, raw)
            if len(settled) < MAX_SETTLED and (of_lead := self._settled_run(key, raw)) is not None:
                settled.append(of_lead)
        # The runs that were settled during the load are newer, so they are forgotten later.
        newer = list(self._settled)
        self._settled.clear()
        for routine, run in [*reversed(settled), *newer]:
            self.note_settled(routine, run)
        self.are_loaded.set()

    def note(self, key: bytes, raw: bytes | None) -> None:
        """Note the row of a lead as it is from now on; None if it is deleted."""
        if not self._plan.routines:
            return  # This is called for each step of a lead, and must cost webhooks nothing.
        routine = self._routine_of(key)
        if routine is None:
            return
        before = self._places.get(key)
        if before is None and (raw is None or _is_settled(raw)):
            return
        row: Delivery | None = None
        with suppress(RowUnreadable):  # It is reported when that lead is processed.
            row = None if raw is None else read_delivery(key, raw)
        if before is not None:
            self._forget(key, before)
            if before.run and row is not None and row.state in CALLBACK:
                self.note_settled(routine, before.run)
        if row is not None:
            # While the rows are read for the first time, a row `sending` is that of a predecessor,
            # for whose POST nobody waits any more.
            is_sending = row.state == "sending" and self.are_loaded.is_set()
            place = _place(routine, key, row, is_sending=is_sending)
            if place.run or place.item:
                self._remember(key, place)

    def note_settled(self, routine: RoutinePlace, run: str) -> None:
        """Remember that this run has settled its lead, or settles none."""
        self._settled[routine, run] = None
        if len(self._settled) > MAX_SETTLED:
            self._settled.popitem(last=False)

    def open(self) -> dict[str, tuple[int, int]]:
        """Return the runs that the worker asks about, by destination.

        Returns:
            How many there are, and when the POST of the oldest was accepted, epoch ms.
        """
        runs: dict[str, tuple[int, int]] = {}
        for key in self._leads.values():
            place = self._places[key]
            count, oldest_ms = runs.get(place.routine.destination, (0, place.accepted_ms))
            runs[place.routine.destination] = (count + 1, min(oldest_ms, place.accepted_ms))
        return runs

    def open_in(self, workspace: str) -> int:
        """Return how many runs the leads of this workspace wait for."""
        return self._open[workspace]

    def lead_of_run(self, routine: RoutinePlace, run: str) -> bytes | None:
        """Return the row key of the lead that waits for this run."""
        return self._leads.get((routine, run))

    def is_settled(self, routine: RoutinePlace, run: str) -> bool:
        """Return True for a run that has settled its lead, as far as that is remembered."""
        return (routine, run) in self._settled

    def lead_of_item(self, routine: RoutinePlace, item: str) -> bytes | None:
        """Return the row key of the lead that has this item, if a run nobody knows may be its."""
        return self._items.get((routine, item))

    def any_in_doubt(self, routine: RoutinePlace) -> bool:
        """Return True if a run that nobody knows may belong to a lead whose POST has ended."""
        return self._in_doubt[routine] > 0

    def any_sending(self, routine: RoutinePlace) -> bool:
        """Return True if a POST is under way, whose answer may make its run known."""
        return self._sending[routine] > 0

    def _remember(self, key: bytes, place: _Place) -> None:
        self._places[key] = place
        if place.run:
            self._leads[place.routine, place.run] = key
            self._open[place.routine.workspace] += 1
        if place.item:
            self._items[place.routine, place.item] = key
            (self._sending if place.is_sending else self._in_doubt)[place.routine] += 1

    def _forget(self, key: bytes, place: _Place) -> None:
        del self._places[key]
        if place.run:
            self._open[place.routine.workspace] -= 1
            if self._leads.get((place.routine, place.run)) == key:
                del self._leads[place.routine, place.run]
        if place.item:
            del self._items[place.routine, place.item]
            (self._sending if place.is_sending else self._in_doubt)[place.routine] -= 1

    def _settled_run(self, key: bytes, raw: bytes | None) -> tuple[RoutinePlace, str] | None:
        """Return the run that has settled this lead; None if none has."""
        routine = self._routine_of(key)
        if routine is None or raw is None or not _is_settled(raw):
            return None
        with suppress(RowUnreadable):  # It is reported when that lead is processed.
            if run := read_delivery(key, raw).run:
                return routine, run
        return None

    def _routine_of(self, key: bytes) -> RoutinePlace | None:
        """Return the routine of a lead by its row key; None if it goes to a webhook.

        A destination does not change from webhooks to a routine while a worker runs.
        """
        prefix = key[: key.index(b"/", key.index(b"/", 2) + 1)]
        if prefix in self._routines:
            return self._routines[prefix]
        workspace, alias, _ = lead_of(key)
        destination = self._plan.destination(workspace, alias)
        if destination is None:
            return None  # A reload may add the destination later.
        routine = RoutinePlace(workspace, alias) if destination.kind == "routine" else None
        self._routines[prefix] = routine
        return routine


def _place(routine: RoutinePlace, key: bytes, row: Delivery, *, is_sending: bool) -> _Place:
    # An earlier POST may have reached Clay, or the answer to the last one named no run.
    in_doubt = row.state in _IN_DOUBT or row.sends > 0 or (row.state in UNANSWERED and not row.run)
    may_settle = row.state != "partial" and match_callback(row, "enriched") == "settles"
    return _Place(
        routine,
        open_run(row),
        row.accepted_at_ms,
        item_id(key) if in_doubt and may_settle else "",
        is_sending=is_sending,
    )


def _is_settled(raw: bytes) -> bool:
    """Return True if a callback has settled this row. Its state is the first string in it."""
    return raw.startswith(_SETTLED, raw.find(b'"') + 1)
