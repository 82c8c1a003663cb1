"""Invariants of the runs of routines, checked as in checker.py: a result settles the lead of its
run once, and nothing else does.
"""

from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.model.run import RunAnswer, RunFinished
from stream_app.domain.plan import Plan
from tests.simulation.answers import ANSWERED, REFUSALS, History
from tests.simulation.clay import ENDS, LookFate, Post
from tests.simulation.schedule import Arrival, Schedule, drawn

ESTIMATE: Final = 6
"""What is booked where Clay does not say what a lead cost: a run that failed says nothing."""
SOON_S: Final = 20.0
"""A run that ends within this time is looked at before its lead is parked, whatever breaks."""
_SOON_MS: Final = 1_000


@dataclass(slots=True)
class _Run:
    """What is known of a run: its lead, and what workers were told of its end."""

    post: Post
    origin: str
    outcomes: set[str] = field(default_factory=set)


class RunChecks:
    """`problem` receives each broken promise in one line.

    calm       no fault explains that a worker asked twice, or too soon.
    certain    every look is answered.
    """

    def __init__(
        self,
        plan: Plan,
        histories: defaultdict[str, History],
        now_ms: Callable[[], int],
        problem: Callable[[str], None],
    ) -> None:
        self.calm = False
        self.certain = False
        self._plan = plan
        self._histories = histories
        self._now_ms = now_ms
        self._problem = problem
        self._runs: dict[str, _Run] = {}
        self._looks: defaultdict[str, int] = defaultdict(int)

    def on_post(self, post: Post, origin: str) -> None:
        """A POST begins a run, if Clay takes it."""
        if post.item:
            self._runs[post.run] = _Run(post, origin)

    def is_of_run(self, event: StatusEvent) -> bool:
        """Whether a lead has its answer from a run."""
        destination = self._plan.destinations.get(event.destination)
        return destination is not None and destination.kind == "routine"

    def on_look(self, post: Post, worker: str) -> None:
        """A worker asks for the results of a run: its row says that Clay has it."""
        events = self._histories[self._runs[post.run].origin].events
        accepted = next((event for event in events if event.run == post.run), None)
        if accepted is None:
            # An owner that was fenced in that moment does not know it yet. Its look does no harm.
            if self.calm:
                self._problem(f"6: {post.run} is looked at before its POST is accepted")
            return
        self._looks[post.run] += 1
        after = next((event for event in events if event.seq > accepted.seq), None)
        ended = after is not None and after.status in (*ANSWERED, "parked", "replayed")
        if self.calm and ended and after is not None and self._now_ms() - after.at_ms > _SOON_MS:
            self._problem(f"6: {post.run} is looked at though {after.id} is {after.status}")

    def on_results(self, post: Post, answer: RunAnswer) -> None:
        """A worker hears what became of a run."""
        if isinstance(answer, RunFinished) and post.end is not None:
            self._runs[post.run].outcomes.add(post.end[1])

    def on_answered(self, event: StatusEvent) -> None:
        """A lead has its answer: it is that of the run of its last POST, and a worker heard it."""
        events = self._histories[event.origin].events
        run = next((before.run for before in reversed(events) if before.run), "")
        known = self._runs.get(run)
        if known is None or known.origin != event.origin:
            self._problem(f"6: {event.id} {event.status} has no run")
        elif event.status not in known.outcomes:
            self._problem(f"6: {event.id} is {event.status}, and {run} said {known.outcomes}")

    def at_rest(self, corrections: Collection[StatusEvent]) -> None:
        """What ended at Clay in time has its answer, and its cost is booked."""
        for run, known in self._runs.items():
            events = self._histories[known.origin].events
            accepted = next((event for event in events if event.run == run), None)
            sent_again = accepted is not None and any(
                event.status == "sending" and event.seq > accepted.seq for event in events
            )
            if accepted is None or sent_again:
                continue
            last = events[-1]
            end = known.post.end
            soon = end is not None and end[0] <= SOON_S
            if self.certain and soon and last.status not in ANSWERED:
                self._problem(f"6: {run} ended, and {known.origin} is left at {last.status}")
            self._check_cost(known, events, corrections)

    def _check_cost(
        self,
        known: _Run,
        events: list[StatusEvent],
        corrections: Collection[StatusEvent],
    ) -> None:
        if events[-1].status not in ANSWERED:
            return
        pairs = zip(events, [*events[1:], None], strict=True)
        sent = sum(a.status == "sending" and not (b and b.status in REFUSALS) for a, b in pairs)
        corrected = [event for event in corrections if event.lead_id == events[-1].lead_id]
        booked = sum(event.credits or 0 for event in (*events, *corrected))
        cost = ESTIMATE if events[-1].status == "enrich_error" else known.post.cost
        if sent == 1 and booked != cost:
            self._problem(f"4: {known.origin} is booked at {booked}, and Clay charged {cost}")


def routed(seed: int) -> Schedule:
    """A drawn schedule whose leads go to routines."""
    rng = Random(f"routines {seed}")
    schedule = drawn(seed)
    fates: tuple[LookFate, ...] = ("answered", "slow", "limited", "unread", "gone", "denied")
    redrives_s = rng.choice(((), (), (130.0,), (60.0, 200.0)))
    is_plain = all(map(_is_plain, schedule.arrivals)) and "poison" not in schedule.fates
    mix = rng.choice(((1, 0, 0, 0, 0, 0), (4, 1, 1, 1, 1, 1), (1, 0, 4, 1, 0, 0)))
    return replace(
        schedule,
        name=f"p{seed}",
        setup=replace(schedule.setup, routines=True, callbacks=True),
        answers=tuple(rng.choices(list(ENDS), k=rng.choice((0, 3, 6)))),
        looks=tuple(rng.choices(fates, mix, k=rng.choice((0, 4, 10)))),
        redrives_s=redrives_s if is_plain else (),
    )


def _is_plain(arrival: Arrival) -> bool:
    """Whether a dead letter of this record goes on with its history."""
    return not (arrival.how or arrival.headers or arrival.away)
