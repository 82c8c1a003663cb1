"""Where the workspaces of one partition reside, and the wait for those that move (docs/decisions/09-moving-a-lane.md).

A workspace without a row of its own resides at its home, the partition that the configuration gives it.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import Counter
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec

from stream_app.domain.lane.move import Residence, decode_residence, resident_of
from stream_app.domain.policy import Plan
from stream_app.partition.in_flight import InFlight, Source
from stream_app.partition.state import unreadable

_ON_THE_WAY: Final = frozenset({"draining", "leaving"})
_MOVING: Final = frozenset({"draining", "leaving", "arriving"})
_FIRST: Final[dict[Source, int]] = {"command": 0, "callback": 1}
_ELSEWHERE: Final = frozenset({"leaving", "left", "arriving"})


class _Waiter(NamedTuple):
    """A record that waits: its place by kind, the number in its header, and what is done when it is its turn."""

    order: int
    moves: int
    turn: asyncio.Future[None]


class _Work:
    """Counts a record of a workspace as under way inside a `with` block."""

    __slots__ = ("_residences", "_workspace")

    def __init__(self, residences: Residences, workspace: str) -> None:
        self._residences = residences
        self._workspace = workspace

    def __enter__(self) -> None:
        self._residences.begin_work(self._workspace)

    def __exit__(self, *_: object) -> None:
        self._residences.end_work(self._workspace)


class Residences:
    """The residences of workspaces that moved from or to partition `number`, by workspace."""

    def __init__(self, number: int, plan: Plan) -> None:
        self._number = number
        self._plan = plan
        self._known: dict[str, Residence] = {}
        self._counted: tuple[int, int] | None = None
        self._at_work: Counter[str] = Counter()
        self._lines: dict[str, list[_Waiter]] = {}
        self._changed = asyncio.Event()

    def load(self, rows: dict[bytes, bytes]) -> None:
        """Replace the residences by those in `rows`.

        Raises:
            RowUnreadable: A row does not decode.
        """
        self._known.clear()
        self._counted = None
        for key, value in rows.items():
            self.apply(key, value)

    def __len__(self) -> int:
        """How many workspaces moved from or to the partition."""
        return len(self._known)

    def apply(self, key: bytes, value: bytes | None) -> None:
        """Apply a row of the partition. Rows of other kinds are ignored."""
        if (name := resident_of(key)) is None or value is None:
            return
        try:
            self._known[name] = decode_residence(value)
        except msgspec.DecodeError as error:
            raise unreadable(key, str(error)) from None
        self._counted = None
        self._wake()

    def of(self, workspace: str) -> Residence | None:
        """The residence of a workspace that has moved from or to this partition."""
        return self._known.get(workspace)

    def is_here(self, workspace: str) -> bool:
        """True if the lane of the workspace is in this partition, and not on its way out or in."""
        known = self._known.get(workspace)
        return self._plan.home_of(workspace) == self._number if known is None else known.phase not in _ELSEWHERE

    def moved_away(self, workspace: str) -> Residence | None:
        """The residence of a workspace that has moved and is not here, nor on its way out."""
        known = self._known.get(workspace)
        return known if known is not None and known.phase in _ELSEWHERE else None

    def home_of(self, workspace: str) -> int | None:
        """The partition for the events, results and views of a workspace; None: this one."""
        known = self._known.get(workspace)
        return None if known is None else self._plan.home_of(workspace)

    @property
    def shared(self) -> bool:
        """True if several workspaces reside in the partition."""
        at_home = self._plan.residents(self._number)
        if self._counted is None or self._counted[0] != len(at_home):  # a reload only adds workspaces
            change = sum(
                (each.phase == "here" and name not in at_home) or -(each.phase == "left" and name in at_home)
                for name, each in self._known.items()
            )
            self._counted = len(at_home), len(at_home) + change
        return self._counted[1] > 1

    def resides(self, workspace: str) -> bool:
        """True if a configured workspace resides here."""
        return workspace in self._plan.workspaces and self.is_here(workspace)

    def to_hand_over(self) -> list[str]:
        """The workspaces whose lane is on its way out."""
        return [name for name, each in self._known.items() if each.phase in _ON_THE_WAY]

    # ---------------------------------------------------------------------------------------------- records and moves

    async def wait_for_move(self, in_flight: InFlight, workspace: str, moves: int) -> None:
        """Let a record wait while its workspace is on its way out, or not here yet. Raises GiveUp.

        Records that wait go on in their order, and before any later one: commands, callbacks, then leads. `moves` is
        the number in the header of a record that followed its workspace here.
        """
        line = self._lines.get(workspace)
        if line or self._is_moving(workspace, moves):
            if line is None:
                line = self._lines[workspace] = []
            in_flight.release_next()
            await self._wait(in_flight, workspace, line, moves)

    def working(self, workspace: str) -> _Work:
        """Mark the workspace as in use inside the `with` block: its lane does not leave meanwhile."""
        return _Work(self, workspace)

    def begin_work(self, workspace: str) -> None:
        """Count one more record of a workspace that is under way."""
        self._at_work[workspace] += 1

    def end_work(self, workspace: str) -> None:
        """Count one record less of a workspace that is under way."""
        self._at_work[workspace] -= 1
        if not self._at_work[workspace]:
            del self._at_work[workspace]
            if (known := self._known.get(workspace)) is not None and known.phase == "draining":
                self._wake()

    async def idle(self, workspace: str) -> None:
        """Wait until nothing is under way for a workspace."""
        while workspace in self._at_work:
            await self._changed.wait()

    async def changed(self) -> None:
        """Wait until a residence changes."""
        await self._changed.wait()

    def _is_moving(self, workspace: str, moves: int) -> bool:
        known = self._known.get(workspace)
        if known is None:
            return moves > 0
        return known.phase in _MOVING or moves > known.moves

    async def _wait(self, in_flight: InFlight, workspace: str, line: list[_Waiter], moves: int) -> None:
        turn = asyncio.get_running_loop().create_future()
        waiter = _Waiter(_FIRST.get(in_flight.source, len(_FIRST)), moves, turn)
        insort(line, waiter, key=attrgetter("order"))
        try:
            await in_flight.wait_aside(turn)
        finally:
            line.remove(waiter)
            if line:
                self._grant_first(workspace)
            else:
                del self._lines[workspace]

    def _grant_first(self, workspace: str) -> None:
        first = self._lines[workspace][0]
        if not first.turn.done() and not self._is_moving(workspace, first.moves):
            first.turn.set_result(None)

    def _wake(self) -> None:
        before, self._changed = self._changed, asyncio.Event()
        before.set()
        for workspace in self._lines:
            self._grant_first(workspace)
