"""The group's coordinator: members join, all must rejoin, and a new generation shares the
partitions out.

Eager rebalances, as Faust does them: everybody gives everything up first. Who does not rejoin in
time is left out.
"""

from collections.abc import Callable

from tests.simulation.kafka import MemoryKafka
from tests.simulation.loop import SimLoop

REBALANCE_TIMEOUT_S = 90.0
UNKNOWN_MEMBER = -1
_HEARTBEAT_S = 0.3

Assigned = Callable[[int, list[int]], None]


class Group:
    """`assigned` of a member is called with the generation and its partitions, `rebalance` when it
    has to rejoin.

    The generation is UNKNOWN_MEMBER when its session expired while it waited for an answer: it has
    to join again.
    """

    def __init__(self, loop: SimLoop, kafka: MemoryKafka, name: str, partitions: int) -> None:
        self.name = name
        self._loop = loop
        self._kafka = kafka
        self._partitions = partitions
        self._members: dict[str, Callable[[], None]] = {}
        self._waiting: dict[str, Assigned] = {}
        self._rounds = 0
        self._preparing = False

    def join(self, member: str, rebalance: Callable[[], None], assigned: Assigned) -> None:
        self._members[member] = rebalance
        self._waiting[member] = assigned
        self.rebalance()

    def leave(self, member: str) -> None:
        """It left, or its session has expired."""
        if self._members.pop(member, None) is not None:
            if (assigned := self._waiting.pop(member, None)) is not None:
                self._loop.outside(_HEARTBEAT_S, assigned, UNKNOWN_MEMBER, [])
            self.rebalance()

    def knows(self, member: str) -> bool:
        return member in self._members

    def rebalance(self) -> None:
        """All members are to rejoin; the new generation begins when they have."""
        if not self._preparing:
            self._preparing = True
            self._rounds += 1
            for member, rebalance in self._members.items():
                if member not in self._waiting:
                    self._loop.outside(_HEARTBEAT_S, rebalance)
            self._loop.outside(REBALANCE_TIMEOUT_S, self._evict, self._rounds)
        if self._waiting.keys() == self._members.keys():
            self._complete()

    def _evict(self, rounds: int) -> None:
        if self._preparing and rounds == self._rounds:
            for member in [member for member in self._members if member not in self._waiting]:
                del self._members[member]
            self._complete()

    def _complete(self) -> None:
        self._preparing = False
        generation = self._kafka.next_generation(self.name)
        waiting = self._waiting
        self._waiting = {}
        members = sorted(waiting)
        for number, member in enumerate(members):
            mine = [p for p in range(self._partitions) if p % len(members) == number]
            self._loop.outside(0.001, waiting[member], generation, mine)
