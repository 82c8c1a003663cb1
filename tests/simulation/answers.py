"""Invariants of callbacks, checked as in checker.py: each settles one lead or says that it settles
none, once.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

import msgspec

from stream_app.domain.lane.lane import Lane
from stream_app.domain.model.messages import Result, Status, StatusEvent
from stream_app.domain.model.records import ConsumedRecord
from stream_app.domain.plan import Plan
from tests.simulation.clay import Post

ANSWERED: Final = frozenset[Status]({"enriched", "partial", "no_data", "enrich_error"})
REFUSALS: Final = frozenset[Status]({"refused", "dead_lettered", "rejected_invalid", "parked"})
"""What follows `sending` where Clay refused. A lead that may be at Clay is `send_uncertain` before
it is parked.
"""
_SOON_MS: Final = 2_000
_result: Final = msgspec.json.Decoder(Result)


@dataclass(slots=True)
class History:
    """The committed events of one origin."""

    events: list[StatusEvent] = field(default_factory=list)
    concluded_seq: int = 0  # of the last event that concludes something
    posts: dict[int, Post] = field(default_factory=dict)  # by the seq of their `sending`
    replays: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))


@dataclass(slots=True)
class Called:
    """A callback on its topic, about the lead of `origin`: `concluded` once it is committed."""

    origin: str
    post: Post
    at_ms: int
    concluded: bool = False


def check_report(
    event: StatusEvent,
    history: History,
    what: str,
    problem: Callable[[str], None],
) -> None:
    """The event of a callback's or an announcement's own record (`what`) says that it settles
    nothing, once.
    """
    is_first = not history.events and event.id == f"{event.origin}#1"
    history.events.append(event)
    if event.status not in ("callback_duplicate", "callback_unmatched") or not is_first:
        problem(f"6: {event.id} {event.status} reports {what}")


class Answers:
    """`problem` receives each broken promise in one line.

    calm     no fault explains that a callback was missed. ordered: an operator may have lifted a
    stop.
    """

    def __init__(
        self,
        plan: Plan,
        histories: defaultdict[str, History],
        now_ms: Callable[[], int],
        problem: Callable[[str], None],
    ) -> None:
        self.calm = False
        self._plan = plan
        self._fenced: dict[str, int] = {}
        # when each silent destination of a workspace was reported, or sent its last probe
        self._silent: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self.ordered = False
        self._histories = histories
        self._now_ms = now_ms
        self._problem = problem
        self._called: dict[str, Called] = {}
        self._versions: defaultdict[bytes, int] = defaultdict(int)

    def called_back(self, consumed: ConsumedRecord, origin: str, post: Post) -> None:
        self._called[consumed.record_id] = Called(origin, post, self._now_ms())

    def acked(self, place: str) -> bool:
        """Whether it is a callback; then it must be concluded."""
        called = self._called.get(place)
        if called is not None and not called.concluded:
            self._problem(f"2: the callback {place} is acked before it is concluded")
        return called is not None

    def taken_over(self, transactional_id: str) -> None:
        """A process fences the earlier owner of a partition."""
        self._fenced[transactional_id] = self._now_ms()

    def on_post(self, sending: StatusEvent) -> None:
        """A POST leaves."""
        if self._came_before(sending):
            self._problem(f"3: {sending.id} is POSTed though a callback came before")

    def _came_before(self, event: StatusEvent) -> bool:
        """True if the owner must have known of a callback: it came before the take-over, or long
        ago.
        """
        until_ms = max(self._owned_since(event), event.at_ms - _SOON_MS if self.calm else 0)
        return any(
            called.origin == event.origin and called.at_ms < until_ms
            for called in self._called.values()
        )

    def _owned_since(self, event: StatusEvent) -> int:
        """When its partition was last taken over."""
        home = self._plan.pins.get(event.workspace, 0)
        return self._fenced.get(f"{self._plan.topics.worker_app}-{home}", 0)

    def check_silence(self, event: StatusEvent) -> None:
        """Leads of a silent destination are sent one now and then, until one is answered.

        Each destination reports its own silence, once. While two of a workspace are silent, they
        share the probes of the lane.
        """
        silent = self._silent[event.workspace]
        if event.status == "credits_exhausted_suspected":
            if event.destination in silent:
                self._problem(f"6: {event.id} reports a silence that was reported already")
            silent[event.destination] = event.at_ms
        elif event.status in ANSWERED:
            silent.pop(event.destination, None)
        elif event.status == "sending" and event.destination in silent and not self.ordered:
            waited_ms = event.at_ms - max(silent.values())
            if waited_ms < self._plan.workspaces[event.workspace].suspension.probe_s * 1000:
                self._problem(f"6: {event.id} is sent into a silence after {waited_ms} ms")
            silent[event.destination] = event.at_ms

    def check_overdue(self, event: StatusEvent, last: StatusEvent) -> None:
        """A lead without a callback is reported and parked at its deadline, and not sooner."""
        destination = self._plan.destinations[event.destination]
        if event.reason.startswith("result_"):
            return  # Clay says that it has no result, so there is nothing to wait for
        if event.status == "callback_overdue":
            wait_s = destination.callback_deadline_s
        elif event.status == "parked" and last.status in (
            "callback_overdue",
            "credits_exhausted_suspected",
        ):
            wait_s = destination.callback_grace_s
        else:
            return
        waited_ms = event.at_ms - last.at_ms - int(wait_s * 1000)
        if waited_ms < 0:
            self._problem(f"6: {event.id} {event.status} is reported {-waited_ms} ms too early")
        # at most: no owner could receive a callback then
        away_ms = max(0, self._owned_since(event) - last.at_ms)
        if self.calm and waited_ms > away_ms + _SOON_MS:
            self._problem(f"6: {event.id} {event.status} is reported {waited_ms} ms too late")
        if self._came_before(event):
            self._problem(f"6: {event.id} {event.status} is reported though a callback came before")

    def reported(self, event: StatusEvent) -> bool:
        """Whether the event is a callback's own, and is checked here."""
        if event.origin not in self._called:
            return False
        check_report(event, self._histories[event.origin], "a callback", self._problem)
        if self._called[event.origin].concluded:
            self._problem(f"6: {event.id} reports a callback that was concluded before")
        return True

    def on_commit(
        self,
        events: list[StatusEvent],
        results: list[ConsumedRecord],
        rows: list[ConsumedRecord],
        is_of_run: Callable[[StatusEvent], bool],
    ) -> list[Result]:
        """Each answer is committed with the mark of the one callback that brought it, if it is not
        of a run, and with its result. Return the results.
        """
        reported = {event.origin for event in events if event.origin in self._called}
        answers = [event for event in events if event.status in ANSWERED]
        shown = [
            event for event in events if event.status == "accepted" and event.reason == "callback"
        ]
        marked = [
            row.key[2:].decode()
            for row in rows
            if row.key and row.key.startswith(b"o/") and row.value
        ]
        first = {
            place for place in marked if place in self._called and not self._called[place].concluded
        }
        for place in first:
            self._called[place].concluded = True
        called = [event for event in answers if not is_of_run(event)]
        if reported - first or len(first - reported) != len(called):
            self._problem(
                f"6: {[event.id for event in answers]} are answered by {sorted(first - reported)}",
            )
        if {event.origin for event in shown} - {event.origin for event in answers}:
            self._problem(
                f"6: {[event.id for event in shown]} are shown to be at Clay without an answer",
            )
        decoded = [_result.decode(consumed.value or b"") for consumed in results]
        of_clay = sum(result.source == "clay" for result in decoded)
        if of_clay != sum(event.status in ("enriched", "partial") for event in answers):
            self._problem(f"6: {[event.id for event in answers]} come with {of_clay} results")
        for consumed, result in zip(results, decoded, strict=True):
            if result.version != self._versions[consumed.key or b""] + 1:
                self._problem(
                    f"6: the result {consumed.record_id} of {result.lead_id} has version "
                    f"{result.version}",
                )
            self._versions[consumed.key or b""] = result.version
        return decoded

    def at_rest(self, corrections: Collection[StatusEvent]) -> None:
        """What Clay called back about has its answer, and its cost is booked; `corrections` are by
        operators.
        """
        for called in self._called.values():
            origin = called.origin
            history = self._histories[called.origin]
            last = history.events[-1]
            if last.status not in ANSWERED:
                self._problem(f"6: {origin} was called back about, and is left at {last.status}")
            pairs = zip(history.events, [*history.events[1:], None], strict=True)
            sent = sum(a.status == "sending" and not (b and b.status in REFUSALS) for a, b in pairs)
            corrected = [event for event in corrections if event.lead_id == last.lead_id]
            booked = sum(event.credits or 0 for event in (*history.events, *corrected))
            if sent == 1 and booked != called.post.cost:
                self._problem(
                    f"4: {origin} is booked at {booked}, and Clay charged {called.post.cost}",
                )

    def check_spent(self, lanes: Iterable[Lane], corrections: Iterable[StatusEvent]) -> None:
        """What lanes have spent is what the events say, day by day."""
        reported: defaultdict[tuple[str, str], int] = defaultdict(int)
        events = chain(corrections, *(history.events for history in self._histories.values()))
        for event in events:
            reported[event.workspace, event.day] += event.credits or 0
        for lane in lanes:
            for day in lane.budget.days:
                if day.credits_spent != (told := reported[lane.workspace, day.id]):
                    self._problem(
                        f"4: {lane.workspace} spent {day.credits_spent} on {day.id}, its "
                        f"events say {told}",
                    )
