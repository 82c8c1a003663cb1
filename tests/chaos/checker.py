"""The verdict: Clay's own ledger and the topics about every lead, compared. It trusts nothing else.

From what was read at the end it finds every broken guarantee of docs/guarantees.md that it can see.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from stream_app.domain.lane.lane import Lane
from stream_app.domain.model.messages import Status, StatusEvent
from tests.e2e.fleet import Request
from tests.e2e.load import WITHOUT_VALUE
from tests.e2e.pipeline import ANSWERED, OVER
from tests.support.legal import follows

Place = tuple[str, int, int]
REST: Final = OVER - {"rerouted"} | ANSWERED
_OF_CALLBACKS: Final[frozenset[Status]] = frozenset({"callback_duplicate", "callback_unmatched"})
"""Of a notification that changed nothing, which is a record of its own."""
_SENT: Final[frozenset[Status]] = frozenset({"accepted", *ANSWERED})
_COUNTS: Final[frozenset[Status]] = frozenset(
    {"sending", "parked", "held_budget", "held_paused", "held_outage", "deferred"},
)
"""Of a history that took its lead on: Clay was sent it, a human has it, or it waits for its lane.
"""


class Finding(NamedTuple):
    """A broken promise: which one, of which lead, record or workspace, and the evidence."""

    promise: str
    about: str
    what: str


class Evidence(msgspec.Struct):
    """All that was read at the end.

    inputs       records of the lead topics that are inputs: place -> its workspace ('' where it
    cannot be read). people       whose lead it is, by place: its id and its strong identifiers,
    each behind its workspace (a record that
                 is not here is no lead).
    published    what was published, by kind (`tests.e2e.load`).
    max_replays  how often a dead letter comes back before it is parked.
    events       of `leads.status`, in the order of each partition.
    requests     of Clay's ledger.
    coming       places of inputs that a group has not passed, or of which a copy is still on its
    way.
    dead_letters  how many dead letters of poison, and how many parked records there are, by place
    of the input.
    lanes        every committed row of every lane, in order. caps: credits a day by workspace.
    ceiling      credits for which a budget must have room, or no lead of its lane is sent.
    may_wait     inputs that may be held for good, by place: the workspace whose budget has to be
    used up then.
    routines     workspaces whose leads are run by a routine: each has to be answered.
    resend       the policy for uncertain leads is `resend`.
    without_value  records without a value on the topics of producers: place of the last one of a
    run -> how many. suppressed   strong identifiers of suppressed people, each behind its
    workspace.
    """

    inputs: Mapping[str, str]
    people: Mapping[str, Collection[str]]
    published: Mapping[str, int]
    max_replays: int
    events: Iterable[StatusEvent]
    requests: Iterable[Request]
    coming: Collection[str]
    poison: Counter[str]
    parked: Counter[str]
    lanes: Iterable[Lane]
    caps: Mapping[str, int]
    credits_a_lead: int
    ceiling: int
    may_wait: Mapping[str, str]
    resend: bool = False
    suppressed: frozenset[str] = frozenset()
    without_value: Mapping[str, int] = {}
    routines: frozenset[str] = frozenset()


class Verdict(msgspec.Struct):
    """Counts for the table, and what was found. `findings` empty: every promise was kept."""

    leads: int = 0
    accepted: int = 0
    uncertain: int = 0
    parked: int = 0
    resent: int = 0
    doubles: int = 0
    held: int = 0
    findings: list[Finding] = []

    def count(self, promise: str) -> int:
        return sum(finding.promise == promise for finding in self.findings)


def is_at_rest(status: Status | None, *, is_of_a_routine: bool) -> bool:
    """Return whether nothing more is to happen to a lead. The result of a routine comes yet."""
    return status in REST and not (is_of_a_routine and status == "accepted")


def used_up(lanes: Iterable[Lane], caps: Mapping[str, int], ceiling: int) -> set[str]:
    """Return the workspaces whose budget has no room for one more lead, by the last rows of their
    lanes.
    """
    last = {lane.workspace: lane.budget.days[-1] for lane in lanes if lane.budget.days}
    return {
        name
        for name, cap in caps.items()
        if name in last and last[name].credits_spent + last[name].credits_reserved + ceiling > cap
    }


def _persons(people: Iterable[Collection[str]]) -> dict[str, str]:
    """Return for each identifier one that stands for its person.

    Leads that share an identifier are one person.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            grandparent = parent[parent[name]]
            parent[name] = grandparent
            name = grandparent
        return name

    for names in people:
        one = root(min(names))
        for name in names:
            parent[root(name)] = one
    return {name: root(name) for name in list(parent)}


class Checker:
    """`verdict()` checks one body of evidence.

    `describe` returns all that is known of a lead, as text.
    """

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._histories: dict[str, list[StatusEvent]] = defaultdict(list)
        self._events_of: dict[str, list[StatusEvent]] = defaultdict(list)
        self._requests: dict[str, list[Request]] = defaultdict(list)
        self._requests_of_person: dict[str, list[Request]] = defaultdict(list)
        for event in evidence.events:
            history = self._histories[event.origin]
            # The first event of a rerouted lead is in the partition in which the lead arrived, all
            # others are in its home.
            history.insert(0 if event.status == "rerouted" else len(history), event)
            self._events_of[event.lead_id].append(event)
        self._places: dict[str, list[str]] = defaultdict(list)
        for place, names in evidence.people.items():
            for name in names:
                self._places[name].append(place)
        person = _persons(evidence.people.values())
        for request in evidence.requests:
            if request.lead_id is not None:
                self._requests[request.lead_id].append(request)
                name = f"{request.workspace} {request.lead_id}"
                self._requests_of_person[person.get(name, name)].append(request)
        self._used_up = used_up(evidence.lanes, evidence.caps, evidence.ceiling)
        self._verdict = Verdict(leads=len(evidence.inputs), findings=[])

    def verdict(self) -> Verdict:
        self._published()
        self._without_value()
        for place in self._evidence.inputs:
            self._record(place)
        for origin, history in self._histories.items():
            self._history(origin, history)
        for requests in self._requests_of_person.values():
            self._person(requests)
        self._money()
        return self._verdict

    def describe(self, about: str) -> str:
        """Return everything about a lead or a record, in order of time, a line each."""
        events = self._events_of.get(about) or self._histories.get(about) or []
        lead_ids = {event.lead_id for event in events} | {about}
        lines = [
            (event.at_ms, f"{event.origin}#{event.seq} {event.status} {event.reason}".rstrip())
            for lead_id in lead_ids
            for event in self._events_of.get(lead_id, ())
        ]
        lines += [
            (
                request.at_ms,
                (
                    f"Clay was sent it: {request.status}, took {request.accepted} "
                    f"{request.fault or ''}"
                ),
            )
            for lead_id in lead_ids
            for request in self._requests.get(lead_id, ())
        ]
        return "\n".join(f"    {at_ms} {text}" for at_ms, text in sorted(lines))

    # --------------------------------------------------------------------------------- the promises

    def _record(self, place: str) -> None:
        """No record is lost: its history has ended, or it is held and will come again."""
        history = self._histories.get(place)
        status = history[-1].status if history else None
        is_of_a_routine = self._evidence.inputs[place] in self._evidence.routines
        if is_at_rest(status, is_of_a_routine=is_of_a_routine):
            self._rests(place, status)
            return
        if status == "accepted":
            self._report("stuck", place, "its routine has run, and nobody has its result")
        elif place not in self._evidence.coming:
            self._report("lost", place, f"it stands at {status}, and nothing of it is on its way")
        elif self._evidence.may_wait.get(place) not in self._used_up:
            self._report(
                "stuck",
                place,
                f"it still stands at {status}, and no budget that is used up holds it",
            )
        else:
            self._verdict.held += 1

    def _rests(self, place: str, status: Status | None) -> None:
        """A history that was reported as ended has ended. Here no lead is too old."""
        who = self._evidence.people.get(place, ())
        unwanted = not self._evidence.suppressed.isdisjoint(who)
        if (status == "rejected_invalid") is bool(who):
            self._report(
                "lost",
                place,
                f"{status}, and it is {'a good lead' if who else 'no lead'}",
            )
        elif status == "expired" or (status == "suppressed") is not unwanted:
            self._report("lost", place, f"{status}, for no reason")
        elif status == "duplicate" and not any(
            self._counts(other) for name in who for other in self._places[name]
        ):
            self._report("lost", place, "a duplicate of nothing that was sent, parked or held")

    def _counts(self, place: str) -> bool:
        """True if a second record of the same lead or person may rely on this record's history."""
        return any(event.status in _COUNTS for event in self._histories.get(place, ()))

    def _published(self) -> None:
        """Each published record is an input, and as many are no leads as were meant to be none."""
        inputs = len(self._evidence.inputs)
        poison = len(self._evidence.inputs.keys() - self._evidence.people.keys())
        published = sum(
            many for kind, many in self._evidence.published.items() if kind != WITHOUT_VALUE
        )
        if inputs != published or poison != self._evidence.published.get("poison", 0):
            what = (
                f"{inputs} records, {poison} of them no leads, of {dict(self._evidence.published)}"
            )
            self._report("lost", "what was published", what)

    def _without_value(self) -> None:
        """Each record without a value is in one event, or waits behind leads for which there is no
        budget.
        """
        runs = [
            event
            for history in self._histories.values()
            for event in history
            if event.status == "without_value"
        ]
        on_kafka = self._evidence.without_value
        published = self._evidence.published.get(WITHOUT_VALUE, 0)
        if sum(on_kafka.values()) != published:
            what = f"{sum(on_kafka.values())} of {published} are on Kafka"
            self._report("lost", "records without a value", what)
        counted = 0
        for place, records in on_kafka.items():
            log, _, offset = place.rpartition("/")
            of_log = [run for run in runs if run.origin.rpartition("/")[0] == log]
            told = sum(
                (run.first_offset or 0) <= int(offset) <= (run.last_offset or 0) for run in of_log
            )
            counted += records * (told > 0)
            if told > 1:
                self._report("illegal", place, f"{told} events count it")
            elif not told and place not in self._evidence.coming:
                self._report("lost", place, "no event counts it, and it is not on its way")
            elif not told and self._evidence.may_wait.get(place) not in self._used_up:
                self._report(
                    "stuck",
                    place,
                    "no event counts it, and no budget that is used up holds it",
                )
        if counted != sum(run.records for run in runs):
            what = f"events count {sum(run.records for run in runs)} of {counted}"
            self._report("illegal", "records without a value", what)

    def _history(self, origin: str, history: list[StatusEvent]) -> None:
        """A legal path, in sequence, each event once; dead letters as its events say."""
        if [event.seq for event in history] != list(range(1, len(history) + 1)):
            self._report("illegal", origin, f"its events are {[event.seq for event in history]}")
        before: Status | None = None
        dead_letters = 0
        for event in history:
            if not follows(before, event.status):
                self._report("illegal", origin, f"{before} -> {event.status}")
            if (
                event.status == "parked"
                and before != "send_uncertain"
                and dead_letters < self._evidence.max_replays
            ):
                self._report(
                    "lost",
                    origin,
                    f"parked after {before} and {dead_letters} dead letters: for no reason",
                )
            dead_letters += event.status == "dead_lettered"
            before = event.status
            self._verdict.uncertain += event.status == "send_uncertain"
            self._verdict.resent += event.reason == "resend"
        last = history[-1]
        self._verdict.parked += last.status == "parked"
        if self._evidence.parked[origin] != sum(event.status == "parked" for event in history):
            self._report("illegal", origin, f"{self._evidence.parked[origin]} parked records of it")
        if last.status == "rejected_invalid" and self._evidence.poison[origin] != 1:
            self._report("illegal", origin, f"{self._evidence.poison[origin]} dead letters of it")
        if origin not in self._evidence.inputs and last.status not in {
            "without_value",
            *_OF_CALLBACKS,
        }:
            self._report("illegal", origin, "a history without a record")
        if last.status in _SENT:
            self._verdict.accepted += 1
            if not any(request.accepted for request in self._requests.get(last.lead_id, ())):
                self._report(
                    "lost",
                    last.lead_id,
                    "its history says accepted, and Clay never got it",
                )

    def _person(self, requests: list[Request]) -> None:
        """Sent once, under any id, unless the POST before was refused, or the policy sent it again
        and reported it.
        """
        lead_ids = {request.lead_id or "": request for request in requests}
        unanswered = sum(not request.refused for request in requests[:-1])
        if unanswered:
            resent = sum(
                event.reason == "resend"
                for lead_id in lead_ids
                for event in self._events_of.get(lead_id, ())
            )
            self._verdict.doubles += sum(request.accepted for request in requests) > 1
            if not self._evidence.resend or resent < unanswered:
                what = (
                    f"{len(requests)} POSTs as {' and '.join(lead_ids)}, {resent} reported as "
                    "sent again"
                )
                self._report("double", requests[-1].lead_id or "", what)
        for lead_id in lead_ids.keys() - self._events_of.keys():
            self._report("illegal", lead_id, "Clay got it, and no event tells of it")

    def _money(self) -> None:
        """Never over a cap: in no committed row of a lane, and not by Clay's own count."""
        days: dict[str, set[str]] = defaultdict(set)
        for lane in self._evidence.lanes:
            cap = self._evidence.caps.get(lane.workspace)
            for day in lane.budget.days if cap is not None else ():
                days[lane.workspace].add(day.id)
                if day.credits_spent + day.credits_reserved > (cap or 0):
                    what = (
                        f"{day.credits_spent} spent + {day.credits_reserved} reserved of {cap} "
                        f"in {day.id}"
                    )
                    self._report("overspend", lane.workspace, what)
        took: Counter[str | None] = Counter()
        for requests in self._requests.values():
            for request in requests:
                took[request.workspace] += request.accepted
        for workspace, cap in self._evidence.caps.items():
            credits_ = took[workspace] * self._evidence.credits_a_lead
            if credits_ > cap * max(1, len(days[workspace])):
                self._report(
                    "overspend",
                    workspace,
                    f"Clay took leads for {credits_} credits of {cap}",
                )

    def _report(self, promise: str, about: str, what: str) -> None:
        self._verdict.findings.append(Finding(promise, about, what))
