"""What operators ask of lanes in a run, and its checker: each command is applied once, and leads
obey it.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import msgspec

from stream_app.domain.commands import TO_ALL, Command, CommandAnswer, CommandKind
from stream_app.domain.delivery.suppression import person_row
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lead.identity import people
from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.model.records import ConsumedRecord, Record
from stream_app.domain.plan import Plan

_answer: Final = msgspec.json.Decoder(CommandAnswer)


@dataclass(frozen=True, slots=True)
class Order:
    """A command that an operator publishes, `times` times.

    what  the person, lead or amount that it is about. Of a resolved lead both, as in `a=4`; `a=` if
    it is given up,
          `a=no` if it is not at Clay.
    """

    at_s: float
    workspace: str
    kind: CommandKind
    what: str = ""
    times: int = 1


def drawn_orders(rng: Random, capped: bool) -> tuple[Order, ...]:
    """Something now and then; what holds a lane is lifted again, so that a run comes to rest."""
    if rng.random() < 0.6:
        return ()
    begins = rng.choice((0.0, 0.3, 1.0, 3.0))
    ends = begins + rng.choice((0.01, 0.5, 5.0, 40.0))
    workspace = rng.choice(("acme", "acme", "beta"))
    person = f"p{rng.randrange(4)}"
    kinds: dict[str, tuple[Order, ...]] = {
        "pause": (Order(begins, workspace, "pause"), Order(ends, workspace, "resume")),
        "trip": (
            Order(begins, workspace, "trip"),
            Order(ends, workspace, "reset", times=rng.choice((1, 2))),
        ),
        "suppress": (Order(begins, "", "suppress", person),),
        "both": (Order(begins, "", "suppress", person), Order(ends, "", "unsuppress", person)),
        "cancel": (Order(begins, workspace, "cancel_lead", f"id{rng.randrange(4)}"),),
        "correct": (Order(begins, workspace, "correct", "1", rng.choice((1, 2))),),
    }
    if capped:
        kinds["budget"] = (Order(begins, workspace, "budget", "200"),)
    return tuple(
        order for name in rng.sample(sorted(kinds), rng.choice((1, 1, 2))) for order in kinds[name]
    )


def records_of(order: Order, serial: int, plan: Plan, now_ms: int) -> Iterator[tuple[int, Record]]:
    """Partition and record, of each that the operator publishes."""
    command = Command(
        f"c{serial}",
        order.kind,
        order.workspace,
        now_ms,
        "operator",
        "",
        _arguments(order),
    )
    record = Record(plan.topics.commands, order.workspace.encode(), msgspec.json.encode(command))
    homes = range(plan.partitions) if order.kind in TO_ALL else [plan.pins[order.workspace]]
    for home in homes:
        for _ in range(order.times):
            yield home, record


def hash_of(person: str) -> str:
    return people({"email": f"{person}@example.com"})[0]


def _arguments(order: Order) -> dict[str, Any]:
    match order.kind:
        case "suppress" | "unsuppress":
            return {"people": [hash_of(order.what)]}
        case "cancel_lead" | "erase":
            return {"lead_id": order.what}
        case "cancel_import":
            return {"import_id": order.what}
        case "resolve":
            lead_id, _, credits_ = order.what.partition("=")
            how = {"": {"give_up": True}, "no": {"not_at_clay": True}}
            return {"lead_id": lead_id, **(how.get(credits_) or {"credits": int(credits_)})}
        case "correct":
            return {"credits": int(order.what)}
        case "budget":
            return {"caps": {"credits_per_day": int(order.what)}}
        case _:
            return {}


class OrderChecks:
    """Sees every commit, after the events in it were checked.

    `problem` receives each broken promise.
    """

    def __init__(self, plan: Plan, problem: Callable[[str], None]) -> None:
        self._plan = plan
        self._problem = problem
        self._asked: Counter[tuple[int, str]] = Counter()
        self._acked: Counter[tuple[int, str]] = Counter()
        self._answers: Counter[tuple[int, str]] = Counter()
        self._applied: Counter[tuple[int, str]] = Counter()
        self._corrected: defaultdict[str, int] = defaultdict(int)
        self._unsendable: set[tuple[int, bytes]] = set()
        self._just_ordered: set[str] = set()
        self._of_leads: set[str] = set()  # commands about one lead's cost
        self.confirmed = 0
        # by the command's place, the event of the cost that it corrected
        self.corrections: dict[str, StatusEvent] = {}

    def reported(self, event: StatusEvent) -> bool:
        """Whether an event is of a command that corrects a lead's cost, and is checked here."""
        if event.status == "confirmed":
            self.confirmed += 1
        if event.status != "cost_corrected":
            return False
        if event.id != f"{event.origin}#1" or event.origin in self.corrections:
            self._problem(f"8: {event.id} comes again, or out of sequence")
        self.corrections[event.origin] = event
        return True

    def before_commit(self, records: Sequence[ConsumedRecord]) -> None:
        """A command and the first lead that it lets through may share a transaction: see
        on_sending.
        """
        answers = (
            _answer.decode(consumed.value or b"")
            for consumed in records
            if consumed.topic == self._plan.topics.audit
        )
        self._just_ordered = {answer.workspace for answer in answers if answer.applied}
        lifted = (
            consumed
            for consumed in records
            if consumed.topic == self._plan.topics.state and consumed.value is None
        )
        self._unsendable -= {(consumed.partition, consumed.key or b"") for consumed in lifted}

    def asked(self, partition: int, record: Record) -> None:
        command = json.loads(record.value or b"")
        self._asked[partition, command["id"]] += 1
        if command["kind"] == "resolve":
            self._of_leads.add(command["id"])

    def on_commit(self, records: Sequence[ConsumedRecord]) -> None:
        for consumed in records:
            key = consumed.key or b""
            if consumed.topic == self._plan.topics.audit:
                self._on_answer(consumed)
            elif consumed.topic == self._plan.topics.state and key.startswith(b"s/"):
                place = (consumed.partition, key)
                (self._unsendable.discard if consumed.value is None else self._unsendable.add)(
                    place,
                )

    def _on_answer(self, consumed: ConsumedRecord) -> None:
        answer = _answer.decode(consumed.value or b"")
        which = (consumed.partition, answer.id)
        self._answers[which] += 1
        self._applied[which] += answer.applied
        if self._applied[which] > 1:
            self._problem(f"8: {answer.id} is applied twice")
        if self._answers[which] > self._asked[which]:
            self._problem(f"8: {answer.id} is answered more often than it was asked")
        if answer.kind == "correct" and answer.applied and answer.id not in self._of_leads:
            self._corrected[answer.workspace] += 1

    def on_sending(self, event: StatusEvent, identifiers: Iterable[str], lane: Lane | None) -> None:
        """A lead is let through; `lane` as it was committed before.

        `identifiers`: all that its person is known by.
        """
        if event.workspace in self._just_ordered:
            lane = None
        if lane is not None and lane.pause is not None:
            self._problem(f"8: {event.id} goes out of a paused lane")
        if lane is not None and lane.forced is not None and lane.forced.mode == "open":
            self._problem(f"8: {event.id} goes out through a breaker that is forced open")
        home = self._plan.pins[event.workspace]
        keys = {
            person_row(hash_of(identifier.rpartition(":")[2]))
            for identifier in identifiers
            if "/e:" in identifier
        }
        if any((home, key) in self._unsendable for key in keys):
            self._problem(f"8: {event.id} is sent although its person is suppressed")

    def on_acked(self, consumed: ConsumedRecord) -> None:
        which = (consumed.partition, json.loads(consumed.value or b"")["id"])
        self._acked[which] += 1
        if self._answers[which] < self._acked[which]:
            self._problem(f"2: {consumed.record_id} is acked before it is answered")

    def at_rest(self, lanes: Iterable[Lane]) -> None:
        for which, times in self._asked.items():
            if self._answers[which] != times:
                self._problem(
                    f"8: {which[1]} was asked {times} times and answered "
                    f"{self._answers[which]} times",
                )
            # its lead may not have been parked yet
            if not self._applied[which] and which[1] not in self._of_leads:
                self._problem(f"8: {which[1]} was never applied")
        settled = sum(self._applied[which] for which in self._asked if which[1] in self._of_leads)
        if len(self.corrections) + self.confirmed != settled:
            self._problem("8: not every corrected cost has its event")
        for lane in lanes:
            booked = sum(month.credits_elsewhere for month in lane.budget.months)
            if booked != self._corrected[lane.workspace]:
                self._problem(
                    f"8: {lane.workspace} was corrected by {booked}, not "
                    f"{self._corrected[lane.workspace]}",
                )
