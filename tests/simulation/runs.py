"""Invariants of the runs of routines, checked as in checker.py: a result settles the lead of its
run once, and nothing else does.
"""

from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.model.records import ConsumedRecord
from stream_app.domain.model.run import RunAnswer, RunFinished
from stream_app.domain.plan import Plan
from tests.simulation.answers import ANSWERED, REFUSALS, History, check_report
from tests.simulation.clay import ANNOUNCEMENTS, ENDS, PollFate, Post
from tests.simulation.schedule import Arrival, Schedule, drawn

ESTIMATE: Final = 6
"""What is booked where Clay does not say what a lead cost: a run that failed says nothing."""
SOON_S: Final = 20.0
"""A run that ends within this time is polled before its lead is parked, whatever breaks."""
_SOON_MS: Final = 1_000


@dataclass(slots=True)
class _Run:
    """What is known of a run: its lead, and what workers were told of its end."""

    post: Post
    origin: str
    outcomes: set[str] = field(default_factory=set)
    is_announced: bool = False
    is_one_of_too_many: bool = False


class RunChecks:
    """`problem` receives each broken promise in one line.

    calm       no fault explains that a worker asked twice, or too soon.
    certain    every poll is answered.
    announced_settles  nobody and nothing keeps an announced run from settling its lead.
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
        self.announced_settles = False
        self._plan = plan
        self._histories = histories
        self._now_ms = now_ms
        self._problem = problem
        self._runs: dict[str, _Run] = {}
        self._polls: defaultdict[str, int] = defaultdict(int)
        # the runs of announcements by their places, and those that were reported
        self._announcements: dict[str, str] = {}
        self._reported: set[str] = set()

    def on_post(self, post: Post, origin: str) -> None:
        """A POST begins a run, if Clay takes it."""
        if post.item:
            self._runs[post.run] = _Run(post, origin)

    def is_of_run(self, event: StatusEvent) -> bool:
        """Whether a lead has its answer from a run."""
        destination = self._plan.destinations.get(event.destination)
        return destination is not None and destination.kind == "routine"

    def on_announcement(self, consumed: ConsumedRecord, run: str) -> None:
        """Clay, or somebody else, announces a run."""
        self._announcements[consumed.record_id] = run
        if run in self._runs:
            self._runs[run].is_announced = True

    def reported(self, event: StatusEvent) -> bool:
        """Whether the event is an announcement's own, and is checked here."""
        if event.origin not in self._announcements:
            return False
        check_report(event, self._histories[event.origin], "an announcement", self._problem)
        run = self._announcements[event.origin]
        self._reported.add(run)
        if event.reason == "too_many_runs" and run in self._runs:
            self._runs[run].is_one_of_too_many = True
        return True

    def acked(self, place: str) -> bool:
        """An announcement is acked: its run has settled its lead, or a row has it, or it was
        reported.
        """
        run = self._announcements.get(place)
        if run is None:
            return False
        known = self._runs.get(run)
        events = self._histories[known.origin].events if known else []
        if run not in self._reported and not any(
            event.run == run or event.status in ANSWERED for event in events
        ):
            self._problem(f"2: the announcement {place} of {run} is acked before it is concluded")
        return True

    def on_poll(self, post: Post, worker: str) -> None:
        """A worker asks for the results of a run: its row says that Clay has it."""
        events = self._histories[self._runs[post.run].origin].events
        accepted = next((event for event in events if event.run == post.run), None)
        if accepted is None and self._runs[post.run].is_announced:
            return
        if accepted is None:
            # An owner that was fenced in that moment does not know it yet. Its poll does no harm.
            if self.calm:
                self._problem(f"6: {post.run} is polled before its POST is accepted")
            return
        self._polls[post.run] += 1
        after = next((event for event in events if event.seq > accepted.seq), None)
        ended = after is not None and after.status in (*ANSWERED, "parked", "replayed")
        # A later owner does not know the runs that were settled before, so it may ask about one
        # that is announced again.
        ended = ended and not self._runs[post.run].is_announced
        if self.calm and ended and after is not None and self._now_ms() - after.at_ms > _SOON_MS:
            self._problem(f"6: {post.run} is polled though {after.id} is {after.status}")

    def on_results(self, post: Post, answer: RunAnswer) -> None:
        """A worker learns what became of a run."""
        if isinstance(answer, RunFinished) and post.end is not None:
            self._runs[post.run].outcomes.add(post.end[1])

    def on_answered(self, event: StatusEvent) -> None:
        """A lead has its answer: it is that of the run of its last POST, or of one that was
        announced, and a worker knew it.
        """
        events = self._histories[event.origin].events
        last = next((before.run for before in reversed(events) if before.run), "")
        known = {
            run: known.outcomes
            for run, known in self._runs.items()
            if known.origin == event.origin and (run == last or known.is_announced)
        }
        if not known:
            self._problem(f"6: {event.id} {event.status} has no run")
        elif all(event.status not in outcomes for outcomes in known.values()):
            self._problem(f"6: {event.id} is {event.status}, and Clay said {known}")

    def at_rest(self, corrections: Collection[StatusEvent]) -> None:
        """What ended at Clay in time has its answer, and its cost is booked."""
        for run, known in self._runs.items():
            events = self._histories[known.origin].events
            accepted = next((event for event in events if event.run == run), None)
            sent_again = accepted is not None and any(
                event.status == "sending" and event.seq > accepted.seq for event in events
            )
            if accepted is None:
                self._check_announced(run, known, events)
                continue
            if sent_again:
                continue
            last = events[-1]
            end = known.post.end
            soon = end is not None and end[0] <= SOON_S
            if self.certain and soon and last.status not in ANSWERED:
                self._problem(f"6: {run} ended, and {known.origin} is left at {last.status}")
            self._check_cost(known, events, corrections)

    def _check_announced(self, run: str, known: _Run, events: list[StatusEvent]) -> None:
        """The run whose id was lost with the answer to its POST has settled its lead."""
        settles = known.is_announced and not known.is_one_of_too_many
        if settles and self.announced_settles and events[-1].status not in ANSWERED:
            self._problem(
                f"6: {run} was announced, and {known.origin} is left at {events[-1].status}",
            )

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
    fates: tuple[PollFate, ...] = ("answered", "slow", "limited", "unread", "gone", "denied")
    redrives_s = rng.choice(((), (), (130.0,), (60.0, 200.0)))
    is_plain = all(map(_is_plain, schedule.arrivals)) and "poison" not in schedule.fates
    mix = rng.choice(((1, 0, 0, 0, 0, 0), (4, 1, 1, 1, 1, 1), (1, 0, 4, 1, 0, 0)))
    return replace(
        schedule,
        name=f"p{seed}",
        setup=replace(schedule.setup, routines=True, callbacks=True),
        answers=tuple(rng.choices(list(ENDS), k=rng.choice((0, 3, 6)))),
        polls=tuple(rng.choices(fates, mix, k=rng.choice((0, 4, 10)))),
        redrives_s=redrives_s if is_plain else (),
    )


def announced(seed: int) -> Schedule:
    """A drawn schedule whose runs are announced, and some of whose POSTs have no answer."""
    rng = Random(f"announced {seed}")
    schedule = routed(seed)
    hows = tuple(ANNOUNCEMENTS)
    mix = rng.choice(((1, 0, 0, 0, 0, 0), (3, 2, 1, 2, 1, 1)))
    fates = list(schedule.fates) + ["accepted"] * 4
    for number in range(len(fates)):
        if rng.random() < 0.4:
            fates[number] = rng.choice(("lost_after", "hang"))
    return replace(
        schedule,
        name=f"w{seed}",
        setup=replace(schedule.setup, announces=True),
        fates=tuple(fates),
        polls=schedule.polls if rng.random() < 0.3 else (),
        announced=tuple(rng.choices(hows, mix, k=12)),
    )


def _is_plain(arrival: Arrival) -> bool:
    """Whether a dead letter of this record goes on with its history."""
    return not (arrival.how or arrival.headers or arrival.away)
