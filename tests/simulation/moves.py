"""Schedules in which lanes move between partitions, and a checker of moves: each row is in one place and used there.

Every record that comes to a partition that its workspace has left is passed on once, in the step that concludes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Final

from stream_app.domain.lane.move import MOVES_HEADER, Residence, decode_hand_over, decode_residence, resident_of
from stream_app.domain.policy import Plan
from stream_app.domain.record import ConsumedRecord
from tests.simulation.kafka import MemoryKafka
from tests.simulation.orders import Order
from tests.simulation.schedule import Arrival, Schedule, Setup, drawn

_UNDER_WAY: Final = frozenset({"draining", "leaving", "arriving"})


class MoveChecks:
    """Sees every commit before the rows in it are applied. `problem` receives each broken promise in one line.

    passed_on  the records that were sent after their workspace.
    """

    def __init__(self, plan: Plan, kafka: MemoryKafka, problem: Callable[[str], None]) -> None:
        self._plan = plan
        self._kafka = kafka
        self._problem = problem
        self._residences: dict[tuple[int, str], Residence] = {}
        self._at: dict[str, int] = {}
        self.rows_at: dict[bytes, int | None] = {}
        self.passed_on: set[str] = set()
        self._concluded: set[str] = set()

    def at(self, workspace: str) -> int:
        """The partition that holds its lane."""
        return self._at.get(workspace, self._plan.pins[workspace])

    def has_moved(self, workspace: str) -> bool:
        return any(name == workspace for _, name in self._residences)

    def on_commit(self, records: Sequence[ConsumedRecord]) -> list[tuple[ConsumedRecord, ConsumedRecord]]:
        """Return the records that are sent after their workspace, each with its copy."""
        names = self._plan.topics
        copies = [each for each in records if each.topic in (names.retry, names.callbacks, names.commands)]
        found: list[tuple[ConsumedRecord, ConsumedRecord]] = []
        for consumed in records:
            key = consumed.key or b""
            if consumed.topic != names.state:
                continue
            if (name := resident_of(key)) is not None:
                self._residences[consumed.partition, name] = decode_residence(consumed.value or b"")
            elif key.startswith(b"l/") and consumed.value is not None:
                self._at[key[2:].decode()] = consumed.partition
            elif key.startswith(b"o/") and consumed.value is not None:
                topic, number, offset = key[2:].decode().rsplit("/", 2)
                source = self._kafka.log(topic, int(number)).read(int(offset))
                if source is None or source.record_id in self._concluded:  # a successor may write the marker again
                    continue
                self._concluded.add(source.record_id)
                if (copy := next((each for each in copies if _is_copy(each, source)), None)) is not None:
                    copies.remove(copy)
                    found.append((source, copy))
                    self.passed_on.add(source.record_id)
        for copy in copies:
            if copy.header(MOVES_HEADER):
                self._problem(f"2: {copy.record_id} follows its workspace, and no record is concluded by it")
        return found

    def in_transit(self, records: Sequence[ConsumedRecord]) -> list[tuple[bytes, bytes]]:
        """The rows of leads that these records hand over."""
        parts = (each.value for each in records if each.topic == self._plan.topics.moves)
        rows = [row for value in parts if value is not None for row in decode_hand_over(value).rows]
        return [(key, value) for key, value in rows if key.startswith(b"d/")]

    def on_row(self, key: bytes, partition: int, is_sending: bool) -> None:
        """A lead's row is committed; `is_sending`: a POST follows."""
        name = key.split(b"/", 2)[1].decode()
        self.rows_at[key] = partition
        if is_sending and self.at(name) != partition:
            self._problem(f"3: {key.decode()} is sent from partition {partition}, its lane is in {self.at(name)}")

    def at_rest(self) -> None:
        for (number, name), residence in self._residences.items():
            if residence.phase in _UNDER_WAY:
                self._problem(f"rest: the move of {name} is left at {residence.phase} in partition {number}")
            if (residence.phase == "here") != (self.at(name) == number):
                self._problem(f"3: partition {number} says {residence.phase} of {name}, its lane is in {self.at(name)}")
        for key, partition in self.rows_at.items():
            name = key.split(b"/", 2)[1].decode()
            if partition != self.at(name):
                self._problem(f"3: {key.decode()} is in partition {partition}, its lane is in {self.at(name)}")


def _is_copy(copy: ConsumedRecord, source: ConsumedRecord) -> bool:
    """Whether the one may be the other, sent after its workspace."""
    same_kind = copy.topic == source.topic or (copy.topic == "leads.retry" and source.topic in ("leads", "leads.bulk"))
    return bool(copy.header(MOVES_HEADER)) and same_kind and copy.value == source.value


# ------------------------------------------------------------------------------------------------------- schedules

_LEADS: Final = (
    Arrival(0.0, "acme", "a", "p1", known_by="el"),
    Arrival(0.2, "acme", "b", "p2"),
    Arrival(0.4, "acme", "c", "p3", topic="bulk"),
    Arrival(0.4, "beta", "d", "p4"),
    Arrival(3.0, "acme", "a", "p1"),
    Arrival(3.0, "acme", "e", "p1", known_by="l"),
    Arrival(3.0, "acme", "f", "p5"),
)


def move_bases() -> list[Schedule]:
    """Small schedules in which every await is to be broken once."""
    to_1, back = Order(0.25, "acme", "move", "1"), Order(2.0, "acme", "move", "0")
    return [
        Schedule("moved", arrivals=_LEADS, orders=(to_1,), answers=("late", "enriched")),
        Schedule("moved_plain", setup=Setup(callbacks=False), arrivals=_LEADS, orders=(to_1,)),
        Schedule(
            "moved_unsure",
            setup=Setup(uncertain="resend", max_attempts=2),
            arrivals=_LEADS[:3],
            fates=("lost_after", "busy", "hang"),
            answers=("late", "lost"),
            orders=(to_1,),
        ),
        Schedule("moved_back", setup=Setup(callbacks=False), arrivals=_LEADS, orders=(to_1, back)),
        Schedule(
            "moved_refused",
            setup=Setup(callbacks=False, max_attempts=1, max_replays=2, trips_after=50),
            arrivals=_LEADS[:3],
            fates=("busy",) * 6,
            orders=(replace(to_1, at_s=1.0),),
            replay_again=1.0,
        ),
        Schedule(
            "moved_ordered",
            setup=Setup(shared=True, credits_per_day=60),
            arrivals=(*_LEADS, Arrival(0.3, "gamma", "g", "p7")),
            orders=(
                *(to_1, Order(0.26, "acme", "correct", "1", 2), Order(0.6, "acme", "pause")),
                *(Order(1.0, "", "suppress", "p5"), Order(4.0, "acme", "resume")),
            ),
        ),
    ]


def unanswered() -> list[Schedule]:
    """A lead that waits for its callback moves, and no callback comes."""
    leads, to_1 = (Arrival(0.0, "acme", "a", "p1"),), Order(1.0, "acme", "move", "1")
    return [Schedule("moved_unanswered", arrivals=leads, orders=(to_1,), answers=("lost",))]


def moving(number: int) -> Schedule:
    """The drawn schedule of a number, in which lanes move as well."""
    rng, base = Random(f"moving {number}"), drawn(number)
    homes = {"acme": 0, "beta": base.setup.partitions - 1, "gamma": 0}
    orders: list[Order] = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice(("acme", "acme", "beta"))
        at_s = rng.choice((0.0, 0.1, 0.5, 1.0, 3.0, 21.0, 60.0))
        orders.append(Order(at_s + rng.random() / 10, name, "move", str((homes[name] + 1) % 2), rng.choice((1, 1, 2))))
        homes[name] = (homes[name] + 1) % 2
    return replace(base, name=f"v{number}", orders=(*base.orders, *orders))
