"""What is known of persons without Clay, and the checks of the answers that leads get from it.

The cache takes a moment, as Redis does, so that a worker can be broken while it asks.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from stream_app.cache.filler import MemoryCache
from stream_app.domain.cached_results import DAY_MS, CachedField, CacheEntry, person_slot
from stream_app.domain.lead.identity import people
from stream_app.domain.model.messages import Result, Scalar, StatusEvent
from stream_app.domain.plan import Plan
from tests.simulation.answers import History
from tests.simulation.persons import Input, fields_of

KNOWN: Final = ("p1", "p3")
_TAKES_S: Final = 0.03
_REFUSED: Final = frozenset({"http_503", "connect_refused"})
"""Reasons of a POST that failed, beside which there are those for which the lane waits."""


def facts(fields: Mapping[str, Scalar]) -> dict[str, tuple[Scalar, str]]:
    """What every lead says of its company."""
    return {"company_name": ("example", "domain")}


class SlowCache(MemoryCache):
    """Knows some persons since two days, in each workspace, and says so after a moment."""

    def __init__(self, plan: Plan, now_ms: int) -> None:
        super().__init__()
        self._known = {
            person_slot(destination.workspace, alias, identifier)
            for alias, destination in plan.destinations.items()
            for person in KNOWN
            for identifier in people({"email": str(fields_of("e", person)["email"])})
        }
        self._entry = CacheEntry({"title": CachedField("CEO", now_ms - 2 * DAY_MS, "acme-main")})

    async def find(self, slots: Sequence[str]) -> list[CacheEntry]:
        await asyncio.sleep(_TAKES_S)
        return [self._entry if slot in self._known else CacheEntry() for slot in slots]


class CachedChecks:
    """Checks results that are not Clay's. `problem` is called with each broken promise.

    expects  something is known of each lead.
    """

    def __init__(
        self,
        plan: Plan,
        histories: Mapping[str, History],
        inputs: Mapping[str, Input],
        problem: Callable[[str], None],
    ) -> None:
        self.expects = False
        self._plan = plan
        self._histories = histories
        self._inputs = inputs
        self._problem = problem
        self._origins: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self._provisional: Counter[str] = Counter()

    def on_commit(self, events: list[StatusEvent], results: list[Result]) -> None:
        """Each is of a lead that degrades and says what became of it, a provisional one once.

        `events`, which the histories have already, and `results` are of one transaction.
        """
        for result in results:
            self._origins[result.workspace, result.lead_id].add(result.origin)
            if result.source == "clay":
                continue
            origin = result.origin
            mine = [event.status for event in events if event.origin == origin]
            if self._plan.workspaces[result.workspace].hold != "degrade":
                self._problem(f"9: {origin} is answered without a fallback")
            what = self._inputs[origin]
            if what.force:
                self._problem(f"9: {origin} is forced, and answered by {result.source}")
            if "served_from_cache" in mine:
                continue
            self._provisional[origin] += 1
            if self._provisional[origin] > 1:
                self._problem(f"9: {origin} has {self._provisional[origin]} provisional results")
            if "served_locally" in mine:
                continue
            history = self._histories[origin].events
            if history[-1].status != "refused":
                self._problem(f"9: {origin} is answered while it is {history[-1].status}")
            if any(event.status == "send_uncertain" for event in history):
                self._problem(f"9: {origin} is answered though it may be at Clay")
            if not origin.startswith(f"{self._plan.topics.leads}/"):
                self._problem(f"9: {origin} is no hot lead, and answered")

    def at_rest(self) -> None:
        """Of each lead that degrades and failed, with time to answer it: it was answered."""
        for origin, history in self._histories.items() if self.expects else ():
            what = self._inputs.get(origin)
            if what is None or what.force or what.not_after_ms is not None:
                continue
            if not origin.startswith(f"{self._plan.topics.leads}/"):
                continue
            self._check_answered(origin, history)

    def _check_answered(self, origin: str, history: History) -> None:
        for number, event in enumerate(history.events):
            if event.status == "send_uncertain":
                return
            destination = self._plan.destinations.get(event.destination)
            if (
                event.status == "refused"
                and event.reason in _REFUSED
                and destination is not None
                and destination.callbacks
                and self._plan.workspaces[event.workspace].hold == "degrade"
                and history.events[number + 1].status != "suppressed"
            ):
                # What a lead says of itself does not follow a result of an earlier record.
                others = self._origins[event.workspace, event.lead_id] - {origin}
                if not self._provisional[origin] and not others:
                    self._problem(f"9: {origin} failed, and has no answer of a fallback")
                return
