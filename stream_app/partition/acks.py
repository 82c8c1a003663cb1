"""Acks of one topic in order: only the finished, gap-free prefix is acked, so a crash loses nothing (hazard 1)."""

from __future__ import annotations

from collections import deque

from stream_app.partition.in_flight import Walk
from stream_app.partition.ports import Inlet


class Prefix:
    """The walks of one inlet in the order in which they were taken."""

    def __init__(self, inlet: Inlet) -> None:
        self._inlet = inlet
        self._walks: deque[Walk] = deque()
        self._broken = False
        self._acking = False

    def add(self, walk: Walk) -> None:
        self._walks.append(walk)

    async def finish(self, walk: Walk) -> None:
        """It is concluded: ack it and what was finished behind it, unless something before it is still under way."""
        walk.finished = True
        if self._broken:
            self.give_up(walk)
            return
        if self._acking:  # by another walk's finish, which takes this one along: acks never overtake each other
            return
        self._acking = True
        while self._walks and self._walks[0].finished:
            await self._inlet.ack(self._walks.popleft().taken)
        self._acking = False

    def give_up(self, walk: Walk) -> None:
        """It comes again, and so does all that was finished behind it: an ack of that would skip this one."""
        self._broken = True
        self._inlet.give_up(walk.taken)
        behind = False
        for other in self._walks:
            behind = behind or other is walk
            if behind and other.finished:
                self._inlet.give_up(other.taken)
