"""Checks what becomes of the leads of one person: no person is paid for twice, whichever identifier
a lead comes with.

An identifier is `workspace/kind:person`. Those of one lead that was sent belong to one person, and
so do those that are linked by other leads that were sent. A lead is new only if no lead of its
person counts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from stream_app.domain.model.messages import StatusEvent
from tests.simulation.answers import History

FIELDS: Final = {
    "e": ("email", "{}@example.com"),
    "f": ("email", "{}@other.example.com"),
    "l": ("linkedin_url", "https://www.linkedin.com/in/{}"),
    "m": ("linkedin_url", "https://www.linkedin.com/in/{}-2"),
}
"""By kind: the field of a lead, and what is in it."""

_NEVER_SENT: Final = frozenset({"rejected_invalid", "expired", "suppressed", "replaced"})


def fields_of(kinds: str, person: str) -> dict[str, object]:
    """The fields of a lead that names its person in these ways."""
    return {name: value.format(person) for name, value in map(FIELDS.__getitem__, kinds)}


def identifiers_of(workspace: str, kinds: str, person: str) -> frozenset[str]:
    return frozenset(f"{workspace}/{kind}:{person}" for kind in kinds)


@dataclass(slots=True)
class Input:
    """A record that a user published.

    `identifiers`: of whom, as the test knows it; none if it is no lead at all.

    straight  it came to the partition of its workspace.
    """

    serial: int
    identifiers: frozenset[str]
    lead_id: str = ""
    force: bool = False
    not_after_ms: int | None = None
    straight: bool = True


class PersonChecks:
    """Checks the first event of each history. `problem` is called with each broken promise."""

    def __init__(self, histories: Mapping[str, History], problem: Callable[[str], None]) -> None:
        self._histories = histories
        self._problem = problem
        self._known: dict[str, frozenset[str]] = {}  # identifier -> all of its person
        # origin -> the identifiers of a lead that was taken as new
        self._leads: dict[str, frozenset[str]] = {}
        self._not_new: dict[str, str] = {}  # origin -> an earlier lead of its person that counts
        self._decided: dict[tuple[str, str], int] = {}

    def person(self, identifiers: frozenset[str]) -> frozenset[str]:
        """All that is known of who has these."""
        return identifiers.union(
            *(self._known.get(identifier, frozenset()) for identifier in identifiers),
        )

    def on_first(self, event: StatusEvent, what: Input) -> None:
        """Check the first event of a history."""
        if what.force or not what.identifiers or event.status == "rerouted":
            return
        if what.straight:
            self._check_order(event, what)
        if event.status == "received":
            person = self.person(what.identifiers)
            others = [
                origin
                for origin, known in self._leads.items()
                if known & person and self._counts(origin)
            ]
            if others and event.origin not in self._leads:
                self._not_new[event.origin] = others[0]
            self._leads[event.origin] = what.identifiers

    def on_step(self, event: StatusEvent) -> None:
        """Check what follows the first event: a known person is served from the cache, or nothing.

        Both are written in one transaction.
        """
        other = self._not_new.pop(event.origin, None)
        if other is not None and event.status != "served_from_cache":
            self._problem(f"3: {event.origin} is taken as new, though its person came as {other}")

    def on_sending(self, what: Input) -> None:
        """A lead is let through: from now on all its identifiers are of one person."""
        if not what.force:
            person = self.person(what.identifiers)
            self._known |= dict.fromkeys(person, person)

    def _counts(self, origin: str) -> bool:
        """Whether it is at Clay, may be, or may come there."""
        events = self._histories[origin].events
        ended = bool(events) and events[-1].status in _NEVER_SENT
        return not ended or any(event.status == "send_uncertain" for event in events)

    def _check_order(self, event: StatusEvent, what: Input) -> None:
        log, _, digits = event.origin.rpartition("/")
        workspace = min(what.identifiers).partition("/")[0]
        for name in (*what.identifiers, f"{workspace}/id:{what.lead_id}"):
            last = self._decided.get((log, name), -1)
            if int(digits) < last:
                self._problem(
                    f"order: {event.origin} is decided behind {log}/{last}, which shares {name}",
                )
            self._decided[log, name] = max(last, int(digits))
