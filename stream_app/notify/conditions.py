"""The conditions that need a person. deploy/alerts.py writes them for Prometheus, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from stream_app.notify.expressions import Absent, Expression, Growth, Level, Stuck, is_selected
from stream_app.notify.samples import Sample

Job = Literal["worker", "replay", "gateway"]
Severity = Literal["critical", "warning"]
_MINUTE: Final = 60.0
_HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Condition:
    """A state that a person should know of.

    Attributes:
        severity: "critical": act now. "warning": act today.
        expression: When it holds, and for which labels.
        for_s: So long it must hold before it counts.
        summary: What to say, with the placeholders of Prometheus.
    """

    name: str
    severity: Severity
    job: Job
    expression: Expression
    for_s: float
    summary: str


_LANE: Final = ("workspace",)
_METER: Final = ("workspace", "meter")
_POOL: Final = ("workspace", "destination")
_USED: Final = "stream_app_lane_budget_used_ratio"
_LEFT: Final = "stream_app_lane_submissions_left"
_EVENTS: Final = "stream_app_lead_events_total"
_HOLDS: Final = "stream_app_lane_holds"
_POSITIVE: Final = ((">", 0.0),)

CONDITIONS: Final = (
    Condition(
        "NoWorker", "critical", "worker", Absent("worker"), 2 * _MINUTE, "No worker answers; leads wait in Kafka."
    ),
    Condition(
        "NoReplay",
        "warning",
        "replay",
        Absent("replay"),
        5 * _MINUTE,
        "Replay does not answer; dead letters and deferred leads wait in Kafka.",
    ),
    Condition(
        "NoGateway",
        "critical",
        "gateway",
        Absent("gateway"),
        2 * _MINUTE,
        "No gateway answers; Clay's callbacks are refused, and may not all come again.",
    ),
    Condition(
        "CallbacksNotKept",
        "critical",
        "gateway",
        Growth("stream_app_callbacks_total", 5 * _MINUTE, 0, ("destination",), where=(("answer", "=", "kafka_away"),)),
        5 * _MINUTE,
        "Callbacks of {{ $labels.destination }} cannot be kept for 5 minutes: look at Kafka.",
    ),
    Condition(
        "CallbacksNotProved",
        "warning",
        "gateway",
        Growth(
            "stream_app_callbacks_total",
            15 * _MINUTE,
            10,
            ("destination",),
            where=(("answer", "=", "wrong_token"),),
        ),
        0,
        "{{ $value | humanize }} callbacks of {{ $labels.destination }} in 15 minutes had another lead's token.",
    ),
    Condition(
        "BreakerOpen",
        "critical",
        "worker",
        Level("max", "stream_app_lane_breaker", _LANE, _POSITIVE),
        5 * _MINUTE,
        "The breaker of {{ $labels.workspace }} has not closed for 5 minutes: Clay refuses or is slow.",
    ),
    Condition(
        "BreakerForced",
        "warning",
        "worker",
        Level("max", "stream_app_lane_breaker_mode", ("workspace", "mode"), _POSITIVE, where=(("mode", "!=", "auto"),)),
        _HOUR,
        "The breaker of {{ $labels.workspace }} is {{ $labels.mode }} for an hour: `stream-app lanes auto` ends it.",
    ),
    Condition(
        "LaneStopped",
        "critical",
        "worker",
        Level(
            "max",
            _HOLDS,
            ("workspace", "reason"),
            _POSITIVE,
            where=(("reason", "=~", "http_.*|flood_guard|over_ceiling|no_webhook|webhook_gone"),),
        ),
        _MINUTE,
        "The lane of {{ $labels.workspace }} stopped ({{ $labels.reason }}) and needs a person: `stream-app explain`.",
    ),
    Condition(
        "NoCallbacks",
        "critical",
        "worker",
        Level("max", _HOLDS, _LANE, _POSITIVE, where=(("reason", "=", "no_callbacks"),)),
        0,
        "Clay takes leads of {{ $labels.workspace }} and calls back for none of a table: "
        "credits out, or auto-run off? `stream-app explain` names it.",
    ),
    Condition(
        "LaneHeld",
        "warning",
        "worker",
        Level("max", _HOLDS, ("workspace", "reason"), _POSITIVE),
        15 * _MINUTE,
        "The lane of {{ $labels.workspace }} is held ({{ $labels.reason }}): `stream-app explain` says why.",
    ),
    Condition(
        "BudgetMostlyUsed",
        "warning",
        "worker",
        Level("max", _USED, _METER, ((">=", 0.8), ("<", 0.95))),
        _MINUTE,
        "{{ $value | humanizePercentage }} of {{ $labels.meter }} of {{ $labels.workspace }} are used.",
    ),
    Condition(
        "BudgetNearlySpent",
        "critical",
        "worker",
        Level("max", _USED, _METER, ((">=", 0.95),)),
        _MINUTE,
        "{{ $value | humanizePercentage }} of {{ $labels.meter }} of {{ $labels.workspace }} are used: "
        "its leads will wait.",
    ),
    Condition(
        "WebhooksNearlyUsedUp",
        "warning",
        "worker",
        Level("min", _LEFT, _POOL, ((">", 0), ("<", 5000))),
        _MINUTE,
        "The webhooks of {{ $labels.destination }} take {{ $value }} more leads: add a new one to its pool.",
    ),
    Condition(
        "WebhooksUsedUp",
        "critical",
        "worker",
        Level("min", _LEFT, _POOL, (("==", 0),)),
        _MINUTE,
        "No webhook of {{ $labels.destination }} takes leads any more: add a new one to its pool.",
    ),
    Condition(
        "LeadsWait",
        "warning",
        "worker",
        Level("sum", "stream_app_records_waiting", (), ((">", 1000),), where=(("source", "=", "hot"),)),
        15 * _MINUTE,
        "{{ $value }} leads have waited in `leads` for 15 minutes: a lane is held, or too slow.",
    ),
    Condition(
        "CommandsWait",
        "warning",
        "worker",
        Level("sum", "stream_app_records_waiting", (), _POSITIVE, where=(("source", "=", "command"),)),
        10 * _MINUTE,
        "{{ $value }} commands of operators have not been applied for 10 minutes.",
    ),
    Condition(
        "DeadLettersGrowing",
        "warning",
        "worker",
        Growth(_EVENTS, 15 * _MINUTE, 10, _POOL, where=(("status", "=", "dead_lettered"),), births=True),
        0,
        "{{ $value | humanize }} dead letters of {{ $labels.destination }} in 15 minutes.",
    ),
    Condition(
        "LeadsParked",
        "warning",
        "worker",
        Level("sum", "stream_app_parked_leads", _LANE, _POSITIVE),
        0,
        "{{ $value }} leads of {{ $labels.workspace }} are parked and wait for a human: `stream-app dlq`.",
    ),
    Condition(
        "StraysParked",
        "warning",
        "worker",
        Growth(_EVENTS, _HOUR, 0, (), where=(("workspace", "=", ""), ("status", "=", "parked")), births=True),
        0,
        "Leads came into a wrong partition twice and were parked in the last hour; "
        "do all processes have the same pins?",
    ),
    Condition(
        "NoCommits",
        "critical",
        "worker",
        Stuck("stream_app_in_flight", "stream_app_commit_steps_total", 5 * _MINUTE),
        5 * _MINUTE,
        "{{ $labels.instance }} has leads under way and has committed nothing for 5 minutes.",
    ),
    Condition(
        "TakenOverAgain",
        "warning",
        "worker",
        Growth("stream_app_recoveries_total", 15 * _MINUTE, 3, None),
        0,
        "{{ $labels.instance }} keeps losing its partitions' transactions: look at Kafka.",
    ),
)

LONGEST_WINDOW_S: Final = max(each.expression.window_s for each in CONDITIONS)
METRICS: Final = frozenset(metric for each in CONDITIONS for metric in each.expression.metrics)
COUNTERS: Final = frozenset(metric for metric in METRICS if metric.endswith("_total"))


def is_read(sample: Sample) -> bool:
    """Return True if a condition reads the series."""
    return any(
        sample.metric in each.expression.metrics and is_selected(sample.labels, each.expression.where)
        for each in CONDITIONS
    )
