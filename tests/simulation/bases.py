"""The small schedules in which every await is broken once."""

from dataclasses import replace
from random import Random
from typing import Any, Final

from tests.simulation.orders import Order
from tests.simulation.schedule import LOSSES, Arrival, Fault, Schedule, Setup


def _acme(lead_id: str, person: str, at_s: float = 0.0, **more: Any) -> Arrival:
    """A lead of acme."""
    return Arrival(at_s, "acme", lead_id, person, **more)


_BASES: Final = (
    Schedule(
        "fine",
        arrivals=(_acme("a", "p1"), _acme("b", "p2"), Arrival(0.0, "beta", "c", "p3")),
    ),
    Schedule(
        "twice",
        setup=Setup(callbacks=False),
        arrivals=(_acme("a", "p1"), _acme("a", "p1"), _acme("other", "p1", away=True)),
    ),
    Schedule(
        "refused",
        setup=Setup(callbacks=False, max_attempts=2, max_replays=1),
        arrivals=(_acme("a", "p1"), _acme("b", "p2")),
        fates=("busy", "limited", "unreachable", "busy", "busy", "busy"),
    ),
    Schedule(
        "unsure",
        setup=Setup(uncertain="resend"),
        arrivals=(_acme("a", "p1"), Arrival(0.0, "beta", "b", "p2")),
        fates=("lost_after", "hang", "lost_before"),
        answers=("lost", "lost", "lost"),
        replay_again=1.0,
    ),
    Schedule(
        "bad",
        setup=Setup(callbacks=False, credits_per_day=20, webhooks=1),
        arrivals=(
            _acme("a", "p1", how="junk"),
            _acme("b", "p2", not_after_s=30.0),
            _acme("c", "p3"),
        ),
        fates=("poison",),
    ),
    Schedule(
        "held",
        setup=Setup(hold="degrade", shared=True, trips_after=1),
        arrivals=(
            _acme("z", "p0"),
            _acme("a", "p1", 0.4),
            Arrival(0.4, "gamma", "other", "p1"),
            _acme("other", "p1", 0.6),
        ),
        fates=("busy", "lost_before"),
    ),
    Schedule(
        "crowd",
        setup=Setup(callbacks=False, max_in_flight=1),
        arrivals=tuple(_acme("a", "p1", 0.5) for _ in range(5)),
        fates=("slow",),
        losses=tuple((number, "lost") for number in range(12, 18)),
    ),
    Schedule(
        "late",
        arrivals=(_acme("a", "p1", 0.5), _acme("a", "p1", 0.5)),
        answers=("lost",),
        losses=((12, "refused"),),
    ),
    Schedule(
        # The first callback is there before its POST has ended, the second comes twice.
        "answered",
        arrivals=(_acme("a", "p1"), _acme("b", "p2")),
        fates=("hang",),
        answers=("early", "doubled"),
    ),
    Schedule(
        # A lead is to be sent again and waits for its stopped lane, when the callback of the first
        # POST comes.
        "news",
        setup=Setup(uncertain="resend"),
        arrivals=(_acme("a", "p1"),),
        fates=("lost_after", "denied", "denied"),
        answers=("late",),
    ),
    Schedule(
        # No callback comes for the first two: the lane is suspended, and resumes once a probe is
        # answered.
        "silent",
        setup=Setup(silent_after=2),
        arrivals=(
            _acme("a", "p1"),
            _acme("b", "p2"),
            _acme("c", "p3", 55.0),
            _acme("d", "p4", 56.0),
        ),
        answers=("lost", "late", "lost"),
    ),
    Schedule(
        # A routine: the results of its run are asked for twice.
        "routine",
        setup=Setup(routines=True, partitions=1),
        arrivals=(_acme("a", "p1"),),
        answers=("reordered",),
        workers=1,
    ),
)


_RARE: Final = (
    Schedule(
        # One of two tables fails until it is held, and its neighbour goes on.
        "sick",
        setup=Setup(callbacks=False, tables=("firms",), trips_after=2, max_attempts=2),
        arrivals=(
            _acme("a", "p1"),
            _acme("b", "p2", 0.2),
            _acme("c", "p3", 0.9, table="firms"),
            _acme("d", "p4", 1.0),
            _acme("e", "p5", 1.1, table="firms"),
        ),
        fates=("busy", "busy", "accepted", "accepted", "busy", "lost_before"),
    ),
    Schedule(
        # The first of two persons is known, and both fail: each is answered, once, and goes on. The
        # third waits for long, and the fourth is no hot lead.
        "failed",
        setup=Setup(hold="degrade", cached=True, max_attempts=3),
        arrivals=(
            _acme("a", "p1"),
            _acme("b", "p2"),
            _acme("c", "p3", 0.5),
            _acme("d", "p4", 0.5, topic="bulk"),
        ),
        fates=("busy", "unreachable", "busy", "limited", "limited", "busy"),
    ),
    Schedule(
        # What a poll may meet, and a run that hangs.
        "polled",
        setup=Setup(routines=True, rate_per_s=1.0, burst=2),
        arrivals=(_acme("a", "p1"), _acme("b", "p2"), _acme("c", "p3"), _acme("d", "p4", 20.0)),
        answers=("enriched", "doubled", "lost", "partial"),
        polls=("limited", "unread", "gone", "slow", "denied", "limited"),
    ),
    Schedule(
        # The first run hangs, its lead is parked, and an operator sends it again: it has two runs.
        "tworuns",
        setup=Setup(routines=True),
        arrivals=(_acme("a", "p1"), _acme("b", "p2")),
        answers=("late", "lost", "enriched", "enriched"),
        redrives_s=(130.0,),
    ),
    Schedule(
        # The answer to the POST is lost, and its run is announced twice: it settles itself.
        "unnamed",
        setup=Setup(routines=True, announces=True, partitions=1),
        arrivals=(_acme("a", "p1"),),
        fates=("lost_after",),
        announced=("doubled",),
        workers=1,
    ),
    Schedule(
        # Announcements that are early, forged, late and lost, of answers that came and did not.
        "announced",
        setup=Setup(routines=True, announces=True),
        arrivals=(_acme("a", "p1"), _acme("b", "p2"), _acme("c", "p3"), _acme("d", "p4")),
        fates=("hang", "accepted", "lost_after", "lost_after"),
        announced=("early", "forged", "late", "lost"),
    ),
    Schedule(
        # Clay does not know the runs any more.
        "forgotten",
        setup=Setup(routines=True),
        arrivals=(_acme("a", "p1"), _acme("b", "p2")),
        polls=("gone",) * 6,
    ),
    Schedule(
        # Copies in one batch, each with other identifiers. Those that only a duplicate names are of
        # another person.
        "mixed",
        setup=Setup(callbacks=False),
        arrivals=(
            _acme("a", "p1", known_by="el"),
            _acme("b", "p1", known_by="e"),
            _acme("c", "p1", known_by="em"),
            _acme("d", "p1", known_by="m"),
            _acme("e", "p1", known_by="fl"),
            _acme("f", "p1", 0.5, known_by="f"),
            _acme("g", "p2", 0.5),
        ),
    ),
    Schedule(
        # The first is sent and has ended, and says that the others, which share no identifier, are
        # of one person.
        "linked",
        setup=Setup(callbacks=False),
        arrivals=(
            _acme("a", "p1", known_by="el"),
            _acme("b", "p1", 0.3, known_by="e", not_after_s=-1.0),
            _acme("c", "p1", 0.5, known_by="l"),
            _acme("d", "p1", 0.5, known_by="e"),
        ),
        fates=("poison", "limited", "lost_before"),
    ),
    Schedule(
        # As before, but the second waits for its lane while the third comes, by a topic that goes
        # first.
        "apart",
        setup=Setup(callbacks=False, rate_per_s=1.0, burst=1),
        arrivals=(
            _acme("a", "p1", known_by="el"),
            _acme("z", "p2", 1.4),
            _acme("b", "p1", 1.5, topic="bulk", known_by="e"),
            _acme("c", "p1", 1.6, known_by="l"),
        ),
        fates=("poison",),
    ),
    Schedule(
        # Two wait for the first, which Clay rejects: only then do they see that they are of one
        # person.
        "grown",
        setup=Setup(callbacks=False, rate_per_s=1.0, burst=1),
        arrivals=(
            _acme("z", "p2", 0.4),
            _acme("a", "p1", 0.5, topic="bulk", known_by="el"),
            _acme("b", "p1", 0.6, known_by="e"),
            _acme("c", "p1", 0.7, known_by="l"),
        ),
        fates=("accepted", "poison"),
    ),
    Schedule(
        # A duplicate names two persons in one, after both were sent.
        "merged",
        setup=Setup(callbacks=False),
        arrivals=(
            _acme("a", "p1", known_by="e"),
            _acme("b", "p1", known_by="l"),
            _acme("c", "p1", 0.5, known_by="el"),
            _acme("d", "p1", 1.0, known_by="em"),
            _acme("e", "p1", 1.5, known_by="m"),
        ),
        fates=("poison",),
    ),
    Schedule(
        # The second waits for the first; the third shares only its id with the second.
        "overtaken",
        setup=Setup(callbacks=False),
        arrivals=(_acme("a", "p1"), _acme("b", "p1"), _acme("b", "p2")),
    ),
    Schedule(
        # More leads than there are places, of different persons: none of them steps aside for
        # another.
        "queue",
        setup=Setup(callbacks=False, max_in_flight=1),
        arrivals=tuple(_acme(f"a{number}", f"p{number}", 0.5) for number in range(5)),
        fates=("slow",),
        losses=tuple((number, "lost") for number in range(12, 18)),
    ),
    Schedule(
        "ordered",
        setup=Setup(callbacks=False, partitions=1),
        arrivals=(_acme("a", "p1"), _acme("b", "p2", 0.5), Arrival(0.5, "beta", "c", "p3")),
        orders=(
            Order(0.0, "acme", "correct", "1", 2),
            Order(0.4, "acme", "pause"),
            Order(0.6, "", "suppress", "p3"),
            Order(2.0, "acme", "resume"),
        ),
    ),
    Schedule(
        # Parked, and then its callback comes; the second lead comes back in two parts, and is
        # bought again.
        "parked",
        arrivals=(
            _acme("a", "p1"),
            _acme("b", "p2"),
            _acme("b", "p2", 20.0, force=True),
            _acme("b", "p2", 40.0, force=True),
        ),
        fates=("lost_after",),
        answers=("late", "partial"),
    ),
    Schedule(
        # No callback comes for the first lead; an operator corrects its cost twice. The second is
        # answered late.
        "corrected",
        setup=Setup(partitions=1),
        arrivals=(_acme("a", "p1"), _acme("b", "p2")),
        fates=("lost_after",),
        answers=("lost", "late"),
        orders=(
            Order(130.0, "acme", "resolve", "a=4", 2),
            Order(131.0, "acme", "resolve", "b=3"),
            Order(150.0, "acme", "resolve", "a=30"),
        ),
    ),
    Schedule(
        # Two histories end and their rows are taken by the next one, while their records are not
        # acked yet.
        "replaced",
        arrivals=(
            _acme("a", "p1", away=True, not_after_s=0.01),
            _acme("a", "p1", 0.1, not_after_s=-1.0),
            _acme("a", "p1", 0.2),
        ),
    ),
    Schedule(
        # A dead letter is replaced by a publication of its lead while its replay waits; both copies
        # of it come back.
        "republished",
        setup=Setup(callbacks=False, max_attempts=1),
        arrivals=(_acme("a", "p1"), _acme("a", "p1", 2.0), _acme("a", "p1", 6.0)),
        fates=("busy", "lost_after"),
        orders=(Order(0.0, "acme", "shadow"),),
        replay_again=1.0,
    ),
    Schedule(
        # An ended history's record comes again and has to wait, for the very lead that takes its
        # row meanwhile.
        "outlived",
        arrivals=(
            _acme("x", "p2", topic="bulk", not_after_s=20.0),
            _acme("a", "p1", 0.1, topic="bulk", not_after_s=-1.0),
            _acme("a", "p1", 4.5),
        ),
        fates=("limited", "limited", "limited"),
    ),
)


def bases() -> list[Schedule]:
    """The small schedules without faults, in each of which every await is to be broken once."""
    return list(_BASES)


def rare() -> list[Schedule]:
    """The same for what hardly ever happens: to be asked for by name."""
    return list(_RARE)


PREEMPTED: Final = ("fine", "unsure")
PREEMPTED_EVERYWHERE: Final = "fine"
_NEAR_TURNS: Final = 30


def preempted(base: Schedule, turns: int, *, everywhere: bool = False) -> list[Schedule]:
    """`base` with a crash at every turn, and one or two turns before or after it that go to the
    next process.

    They are drawn, one and two for each crash; everywhere: with every single one that is near.
    """
    schedules: list[Schedule] = []
    for step in range(1, turns + 1):
        rng = Random(f"{base.name} {step}")
        near = range(max(1, step - _NEAR_TURNS), step + _NEAR_TURNS)
        one = rng.sample(near, 1)
        two = sorted(rng.sample(near, 2))
        for at in [*([turn] for turn in (near if everywhere else one)), two]:
            name = f"{base.name}/crash@{step}, preempted at {' and '.join(map(str, at))}"
            fault = Fault(step, "crash")
            schedules.append(
                replace(
                    base,
                    name=name,
                    faults=(fault,),
                    preempted=tuple(at),
                    drop_in_flight=len(at) == 1,
                ),
            )
    return schedules


def broken_once(base: Schedule, turns: int, requests: int) -> list[Schedule]:
    """`base` with one fault at every turn, and one loss at every request to the broker."""
    schedules: list[Schedule] = []
    for step in range(1, turns + 1):
        for fault, changes in (
            (Fault(step, "crash"), {"drop_in_flight": True, "restart_s": 0.2}),
            (Fault(step, "crash"), {"drop_in_flight": False, "restart_s": 10.0}),
            (Fault(step, "freeze", 8.0), {}),
            (Fault(step, "freeze", 100.0), {}),
            (Fault(step, "stop"), {}),
            (Fault(step, "rebalance"), {}),
        ):
            how = "-dropped" if changes.get("drop_in_flight") else ""
            schedules.append(
                replace(base, name=f"{base.name}/{fault}{how}", faults=(fault,), **changes),  # type: ignore[arg-type]  # mixed values
            )
    schedules.extend(
        replace(base, name=f"{base.name}/{loss}@{number}", losses=(*base.losses, (number, loss)))
        for number in range(requests)
        for loss in LOSSES
    )
    return schedules
