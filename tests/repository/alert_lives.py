"""The life of each alert, minute by minute, in each of the courses that trouble and restarts can
take.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

RELEASE: Final = "stream-app"
BEGAN: Final = 10
ENDED: Final = 110
LAST: Final = 219
_RESTARTED: Final = 80
_AWAY: Final = 2
_UP: Final = 3


@dataclass(frozen=True)
class Course:
    """When there is trouble, and when the process that shows it is away.

    Attributes:
        ended: The first minute in which all is well again.
        away: The minutes in which the process has no series.
        began: The first minute of the trouble; None: all is well.
    """

    ended: int = ENDED
    away: frozenset[int] = frozenset()
    began: int | None = BEGAN

    def is_bad(self, minute: int) -> bool:
        return self.began is not None and self.began <= minute < self.ended

    def started(self, minute: int) -> int:
        """The minute in which the process that runs now was started."""
        return max((gone + 1 for gone in self.away if gone < minute), default=0)


Values = Callable[[int, Course], float | None]
"""The value of a series after so many minutes; None: it has no sample."""
ONE_RESTART: Final = Course(away=frozenset(range(_RESTARTED, _RESTARTED + _AWAY)))
"""The process restarts while the alert fires."""
ALL_IS_WELL: Final = Course(away=ONE_RESTART.away, began=None)
CRASHES: Final = Course(
    away=frozenset(
        minute for minute in range(BEGAN + 1, ENDED) if (minute - BEGAN - 1) % (_UP + _AWAY) >= _UP
    ),
)
"""The process runs for three minutes, is away for two, and so on, for as long as there is trouble.
"""


def restart_after(minutes: int) -> Course:
    """The process restarts so many minutes after the trouble began."""
    return Course(away=frozenset(range(BEGAN + minutes, BEGAN + minutes + _AWAY)))


def brief(minutes: int) -> Course:
    """The trouble is over after so many minutes."""
    return Course(ended=BEGAN + minutes)


@dataclass(frozen=True)
class Life:
    """What the series of an alert show.

    Attributes:
        series: Of values with a border, both sides of it are shown.
        lasts_until: The last minute in which it must fire, because of its cause.
        usual: The course in which the process restarts once, while the alert fires.
        brief: Trouble of so many minutes is too short for it. None: two minutes less than it takes
            to begin.
        late: Where a restart hides some of the events from it, it may begin so many minutes later.
        also: Other series of the same trouble, such as those of a part of a lane. They make it
            fire, too.
        harmless: What the series show of something that it must not report.
    """

    series: dict[str, Values]
    lasts_until: int = ENDED - 1
    usual: Course = ONE_RESTART
    brief: int | None = None
    late: int = 0
    also: dict[str, Values] = field(default_factory=dict)
    harmless: dict[str, Values] = field(default_factory=dict)


def series_of(series: dict[str, Values], release: str, course: Course) -> list[dict[str, str]]:
    """The series for promtool."""
    return [
        {
            "series": name.replace("{", f'{{release="{release}", ', 1),
            "values": _words(values, course),
        }
        for name, values in series.items()
    ]


def _words(values: Values, course: Course) -> str:
    words: list[str] = []
    for minute in range(LAST + 1):
        value = None if minute in course.away else values(minute, course)
        before = words[-1] if words else "_"
        words.append(
            f"{value:g}" if value is not None else "_" if before in ("_", "stale") else "stale",
        )
    return " ".join(words)


def _gauge(good: float | None, bad: float | None) -> Values:
    return lambda minute, course: bad if course.is_bad(minute) else good


def _counter(good: float, bad: float) -> Values:
    """A counter that grows by this much a minute. It begins again at 0 when its process does."""

    def grown(minute: int, course: Course) -> float:
        first = course.started(minute) + 1
        passed = range(first, minute + 1)
        return sum(bad if course.is_bad(one) and one != course.began else good for one in passed)

    return grown


def _burst(events: float) -> Values:
    """A counter of which all events come in the minute in which the trouble begins."""
    return lambda minute, course: (
        events if course.started(minute) <= (course.began or LAST) <= minute else 0
    )


def _seen_late(values: Values, minutes: int) -> Values:
    """A series that is scraped for the first time so long after its first event, which no increase
    shows.
    """
    return lambda minute, course: (
        None if course.began and minute < course.began + minutes else values(minute, course)
    )


def _once(events: float) -> Values:
    """A counter whose series begins with its only events, and ends with its process."""

    def shown(minute: int, course: Course) -> float | None:
        return (
            events
            if course.began is not None and course.started(minute) <= course.began <= minute
            else None
        )

    return shown


def _hold(reason: str, *, also_in_part: bool = False) -> Life:
    labels = f'workspace="acme", reason="{reason}", instance="w1"'
    in_part = f'stream_app_lane_destination_holds{{destination="people", {labels}}}'
    # the lane has an owner
    owned = {'stream_app_lane_breaker{workspace="acme", instance="w1"}': _gauge(0, 0)}
    return Life(
        {f"stream_app_lane_holds{{{labels}}}": _gauge(None, 1)} | owned,
        also={in_part: _gauge(None, 1)} | owned if also_in_part else {},
    )


def _up(job: str) -> Life:
    return Life({f'up{{job="{job}", instance="1"}}': _gauge(1, 0)})


def _callbacks(answer: str, brief: int | None) -> Life:
    series = f'stream_app_callbacks_total{{destination="people", answer="{answer}", instance="g1"}}'
    return Life({series: _counter(0, 3)}, brief=brief, late=10)


def _left(good: float, bad: float) -> Life:
    return Life(
        {
            'stream_app_lane_submissions_left{workspace="acme", destination="people"}': _gauge(
                good,
                bad,
            ),
        },
    )


def _used(good: float, bad: float) -> Life:
    ratio = 'stream_app_lane_budget_used_ratio{workspace="acme", meter="credits_day"}'
    return Life({ratio: _gauge(good, bad)})


def _waiting(partition: int, source: str) -> str:
    return f'stream_app_records_waiting{{source="{source}", partition="{partition}"}}'


def _event(name: str, events: float) -> Life:
    """Something that happened once, and counts for an hour."""
    return Life({name: _once(events)}, BEGAN + 59, restart_after(30))


_TAKEN_OVER: Final = 'stream_app_recoveries_total{instance="w1"}'
_DEAD: Final = 'stream_app_lead_events_total{{workspace="acme", destination="people", status="{}"}}'
LIVES: Final = {
    "NoWorker": _up("worker"),
    "NoReplay": _up("replay"),
    "NoGateway": _up("gateway"),
    "NoBoard": _up("board"),
    "NoTrace": _up("trace"),
    "CallbacksNotKept": Life(
        {'stream_app_callbacks_held_oldest_seconds{instance="g1"}': _gauge(0, 61)},
    ),
    "CallbacksNotProved": _callbacks("wrong_token", brief=3),
    "BreakerOpen": Life({'stream_app_lane_breaker{workspace="acme"}': _gauge(0, 2)}),
    "DestinationFails": Life(
        {
            'stream_app_lane_destination_breaker{workspace="acme", destination="people"}': _gauge(
                0,
                2,
            ),
        },
    ),
    "BreakerForced": Life(
        {
            'stream_app_lane_breaker_mode{workspace="acme", mode="open"}': _gauge(0, 1),
            'stream_app_lane_breaker_mode{workspace="acme", mode="auto"}': _gauge(1, 0),
        },
    ),
    "LaneStopped": _hold("http_401", also_in_part=True),
    "NoCallbacks": Life(
        {
            'stream_app_lane_destination_holds{workspace="acme", destination="people", '
            'reason="no_callbacks"}': _gauge(None, 1),
        },
    ),
    "YieldFell": Life(
        {
            'stream_app_lane_yield_fell{workspace="acme", destination="people", '
            'column="work_email"}': _gauge(0, 1),
        },
    ),
    "LaneHeld": _hold("paused", also_in_part=True),
    "BudgetMostlyUsed": _used(0.79, 0.8),
    "BudgetNearlySpent": _used(0.94, 0.95),
    "BudgetTakesNoLead": _hold("budget_credits_day"),
    "WebhooksNearlyUsedUp": _left(5_000, 4_999),
    "WebhooksUsedUp": _left(1, 0),
    "LeadsWait": Life(
        {
            _waiting(0, "hot"): _gauge(600, 600),
            _waiting(1, "hot"): _gauge(400, 401),
            _waiting(1, "bulk"): _gauge(90_000, 90_000),  # a backfill may wait
        },
    ),
    "CommandsWait": Life({_waiting(0, "command"): _gauge(0, 2)}),
    "DeadLettersGrowing": Life(
        {
            _DEAD.format("dead_lettered"): _seen_late(_counter(0, 2), 6),
            _DEAD.format("rejected_invalid"): _seen_late(_counter(0, 2), 6),
        },
        brief=2,
        late=15,
    ),
    "DeadLettersOpen": Life(
        {
            'stream_app_dead_letters_kept{topic="dlq", state="open"}': _gauge(0, 2),
            'stream_app_dead_letters_kept{topic="dlq", state="solved"}': _gauge(34, 34),
        },
    ),
    "LeadsParked": Life(
        {
            'stream_app_parked_leads{workspace="acme", instance="w1"}': _gauge(0, 1),
            'stream_app_parked_leads{workspace="acme", instance="w2"}': _gauge(0, 2),
        },
    ),
    "RunsNearlyLost": Life(
        {
            'stream_app_runs_oldest_seconds{destination="people", instance="w1"}': _gauge(
                72_000,
                72_001,
            ),
        },
    ),
    "StraysParked": _event(
        'stream_app_lead_events_total{workspace="", destination="", status="parked"}',
        1,
    ),
    "NoCommits": Life(
        {
            'stream_app_in_flight{instance="w1"}': _gauge(0, 4),
            'stream_app_commit_steps_total{instance="w1"}': _counter(100, 0),
        },
    ),
    "TakenOverAgain": Life(
        {_TAKEN_OVER: _counter(0, 1)},
        brief=8,
        # one outage of Kafka, seen by each of twelve partitions
        harmless={_TAKEN_OVER: _burst(12)},
    ),
    "RecordsUnreadable": Life(
        {
            'stream_app_unreadable_partitions{topic="leads", instance="w1"}': _gauge(0, 1),
            'stream_app_unreadable_partitions{topic="leads", instance="w2"}': _gauge(0, 0),
        },
    ),
    "Stalled": Life({'stream_app_stalled{job="worker", instance="w1"}': _gauge(0, 2)}),
    "RecordsDeletedUnread": _event(
        'stream_app_expired_records_total{topic="leads", instance="w1"}',
        40,
    ),
    "BatchTooLarge": _event(
        'stream_app_dead_letters_total{destination="", reason="batch_too_large"}',
        2,
    ),
    "PossibleDoubleSpends": _event(
        'stream_app_possible_double_spends_total{workspace="acme", destination="people"}',
        2,
    ),
    "ReadModelBehind": Life(
        {
            'stream_app_read_model_as_of_seconds{job="board"}': (
                lambda minute, course: 60.0 * (BEGAN if course.is_bad(minute) else minute)
            ),
        },
    ),
}
"""By alert."""
