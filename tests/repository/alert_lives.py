"""A life of each alert, minute by minute: all is well, then it is not, its process restarts, and all is well again."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

RELEASE: Final = "stream-app"
BEGAN, RESTARTED, ENDED, LAST = 10, 80, 110, 219
_AWAY: Final = 2
_AFTER_EVENT: Final = 40
Values = Callable[[int], float | None]
"""The value of a series after so many minutes; None: it has no sample."""


@dataclass(frozen=True)
class Life:
    """The series of an alert, with what they show while all is well, and what they show in this life.

    Attributes:
        series: Of values with a border, both sides of it are shown.
        lasts_until: The last minute in which it must fire, because of its cause.
        restarted: When its process restarts: its series end, and come back after two minutes.
    """

    series: dict[str, tuple[Values, Values]]
    lasts_until: int = ENDED - 1
    restarted: int = RESTARTED


def series_of(life: Life, release: str, *, bad: bool) -> list[dict[str, str]]:
    """The series for promtool. `bad`: those of the life; else all is well."""
    return [
        {"series": name.replace("{", f'{{release="{release}", ', 1), "values": _words(values[bad], life.restarted)}
        for name, values in life.series.items()
    ]


def _words(values: Values, restarted: int) -> str:
    words: list[str] = []
    for minute in range(LAST + 1):
        gone = restarted <= minute < restarted + _AWAY
        value = None if gone else values(minute)
        before = words[-1] if words else "_"
        words.append(f"{value:g}" if value is not None else "_" if before in ("_", "stale") else "stale")
    return " ".join(words)


def _gauge(good: float | None, bad: float | None) -> tuple[Values, Values]:
    return lambda _: good, lambda minute: bad if BEGAN <= minute < ENDED else good


def _counter(good: float, bad: float) -> tuple[Values, Values]:
    """A counter that grows by this much a minute. It begins again at 0 when its process does."""

    def grows(minute: int, trouble: float) -> float:
        back = RESTARTED + _AWAY
        begin = back if minute >= back else 0
        return sum(trouble if BEGAN < passed <= ENDED - 1 else good for passed in range(begin + 1, minute + 1))

    return lambda minute: grows(minute, good), lambda minute: grows(minute, bad)


def _seen_late(values: tuple[Values, Values], minutes: int) -> tuple[Values, Values]:
    """A series that is scraped for the first time so long after its first event, which no increase shows."""
    good, bad = values
    return good, lambda minute: None if minute < BEGAN + minutes else bad(minute)


def _once(events: float) -> tuple[Values, Values]:
    """A counter whose series begins with its only events, and ends with its process."""
    return lambda _: None, lambda minute: events if BEGAN <= minute < _AFTER_EVENT else None


def _hold(reason: str) -> Life:
    lane = 'stream_app_lane_holds{{workspace="acme", reason="{}", instance="w1"}}'
    return Life({lane.format(reason): _gauge(None, 1)})


def _up(job: str) -> Life:
    return Life({f'up{{job="{job}", instance="1"}}': _gauge(1, 0)})


def _callbacks(answer: str) -> Life:
    series = f'stream_app_callbacks_total{{destination="people", answer="{answer}", instance="g1"}}'
    return Life({series: _counter(0, 2)})


def _left(good: float, bad: float) -> Life:
    return Life({'stream_app_lane_submissions_left{workspace="acme", destination="people"}': _gauge(good, bad)})


def _used(good: float, bad: float) -> Life:
    ratio = 'stream_app_lane_budget_used_ratio{workspace="acme", meter="credits_day"}'
    return Life({ratio: _gauge(good, bad)})


def _waiting(partition: int, source: str) -> str:
    return f'stream_app_records_waiting{{source="{source}", partition="{partition}"}}'


def _event(name: str, events: float) -> Life:
    """Something that happened once, and counts for an hour."""
    return Life({name: _once(events)}, BEGAN + 59, _AFTER_EVENT)


LIVES: Final = {
    "NoWorker": _up("worker"),
    "NoReplay": _up("replay"),
    "NoGateway": _up("gateway"),
    "NoBoard": _up("board"),
    "NoTrace": _up("trace"),
    "CallbacksNotKept": _callbacks("kafka_away"),
    "CallbacksNotProved": _callbacks("wrong_token"),
    "BreakerOpen": Life({'stream_app_lane_breaker{workspace="acme"}': _gauge(0, 2)}),
    "BreakerForced": Life(
        {
            'stream_app_lane_breaker_mode{workspace="acme", mode="open"}': _gauge(0, 1),
            'stream_app_lane_breaker_mode{workspace="acme", mode="auto"}': _gauge(1, 0),
        }
    ),
    "LaneStopped": _hold("http_401"),
    "NoCallbacks": _hold("no_callbacks"),
    "LaneHeld": _hold("paused"),
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
        }
    ),
    "CommandsWait": Life({_waiting(0, "command"): _gauge(0, 2)}),
    "DeadLettersGrowing": Life(
        {
            'stream_app_lead_events_total{workspace="acme", destination="people", status="dead_lettered"}': _seen_late(
                _counter(0, 2), 6
            )
        }
    ),
    "DeadLettersOpen": Life(
        {
            'stream_app_dead_letters_kept{topic="dlq", state="open"}': _gauge(0, 2),
            'stream_app_dead_letters_kept{topic="dlq", state="solved"}': _gauge(34, 34),
        }
    ),
    "LeadsParked": Life(
        {
            'stream_app_parked_leads{workspace="acme", instance="w1"}': _gauge(0, 1),
            'stream_app_parked_leads{workspace="acme", instance="w2"}': _gauge(0, 2),
        }
    ),
    "StraysParked": _event('stream_app_lead_events_total{workspace="", destination="", status="parked"}', 1),
    "NoCommits": Life(
        {
            'stream_app_in_flight{instance="w1"}': _gauge(0, 4),
            'stream_app_commit_steps_total{instance="w1"}': _counter(100, 0),
        }
    ),
    "TakenOverAgain": Life({'stream_app_recoveries_total{instance="w1"}': _counter(0, 1)}),
    "Stalled": Life({'stream_app_stalled{job="worker", instance="w1"}': _gauge(0, 2)}),
    "RecordsDeletedUnread": _event('stream_app_expired_records_total{topic="leads", instance="w1"}', 40),
    "PossibleDoubleSpends": _event(
        'stream_app_possible_double_spends_total{workspace="acme", destination="people"}', 2
    ),
    "ReadModelBehind": Life(
        {
            'stream_app_read_model_as_of_seconds{job="board"}': (
                lambda minute: 60.0 * minute,
                lambda minute: 60.0 * (BEGAN if BEGAN <= minute < ENDED else minute),
            )
        }
    ),
}
"""By alert."""
