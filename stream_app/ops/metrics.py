"""Prometheus metrics and the log of what happened to leads.

Labels are few and bounded: never a lead.
"""

import collections
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from structlog.typing import FilteringBoundLogger

from stream_app.clock import Clock
from stream_app.domain.commands import CommandAnswer
from stream_app.domain.delivery.recorder import CommitStep, Duration
from stream_app.domain.model.messages import RESENDS, Status, StatusEvent
from stream_app.domain.model.outcome import Outcome
from stream_app.domain.model.run import (
    RunAnswer,
    RunDenied,
    RunFinished,
    RunGone,
    RunLimited,
    RunTooLarge,
    RunUnfinished,
    RunUnread,
)
from stream_app.domain.plan import Destination
from stream_app.domain.views.lane import LaneView
from stream_app.ops.lane_metrics import BoundedLabel, LaneMetrics
from stream_app.ops.logs import Throttled
from stream_app.partition.ports import Observer

_POLL_ANSWERS: Final[dict[type[RunAnswer], str]] = {
    RunFinished: "finished",
    RunUnfinished: "unfinished",
    RunTooLarge: "too_large",
    RunGone: "gone",
    RunDenied: "denied",
    RunLimited: "limited",
    RunUnread: "unread",
}
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LONG_SECONDS: Final = (1, 5, 15, 60, 300, 900, 3_600, 14_400, 43_200, 86_400, 259_200, 604_800)
_EXEMPLAR_EVERY_S: Final = 1.0
_LAST_ANSWERS: Final = 100
_TRACE_ID_DIGITS: Final = 32  # the client library refuses a long exemplar
_WORTH_A_LINE: Final = frozenset[Status](
    {"rejected_invalid", "send_uncertain", "dead_lettered", "parked", "rerouted", "expired"},
)


class StallGauge:
    """Shows all current stalls in a gauge and in the log.

    The watchdog calls it when they change.
    """

    def __init__(self, registry: CollectorRegistry, log: FilteringBoundLogger) -> None:
        self._log = log
        self._gauge = Gauge(
            "stream_app_stalled",
            "Things that must make progress and do not; /readyz describes them.",
            registry=registry,
        )

    def __call__(self, what: list[str]) -> None:
        self._gauge.set(len(what))
        if what:
            self._log.warning("stalled", what=what)
        else:
            self._log.info("progress_resumed")


class ExpiredRecords:
    """Shows the records that retention removed before they were consumed.

    It counts them, and logs them.
    """

    def __init__(self, registry: CollectorRegistry, log: FilteringBoundLogger) -> None:
        self._log = log
        self._count = Counter(
            "stream_app_expired_records",
            "Upper bound of the records that retention removed before they were consumed.",
            ("topic",),
            registry=registry,
        )

    def __call__(self, topic: str, partition: int, first: int, end: int) -> None:
        """Show the records from offset `first` to before `end`."""
        self._count.labels(topic).inc(end - first)
        self._log.warning(
            "lost_to_retention",
            topic=topic,
            partition=partition,
            first=first,
            last=end - 1,
            at_most=end - first,
        )


class WorkerMetrics(Observer):
    """The worker's observer."""

    def __init__(self, registry: CollectorRegistry, log: FilteringBoundLogger) -> None:
        self._log = log
        self._workspace = BoundedLabel()
        self._destination = BoundedLabel()
        # `labels()` takes a lock for each call, so the children that each lead uses are kept.
        self._timers: dict[tuple[str, type[Outcome]], Histogram] = {}
        self._duration_children: dict[tuple[str, str], Histogram] = {}
        self._next_exemplar_s: dict[tuple[str, type[Outcome]], float] = {}

        counter = partial(Counter, registry=registry)
        histogram = partial(Histogram, registry=registry)
        self._events = counter(
            "stream_app_lead_events",
            "Committed steps of leads, by status.",
            ("workspace", "destination", "status"),
        )
        self._commit = histogram(
            "stream_app_commit_seconds",
            "Time of one transaction.",
            buckets=_SECONDS,
        )
        self._steps = counter(
            "stream_app_commit_steps",
            "Steps committed; many share a transaction.",
        )
        self._records = counter("stream_app_commit_records", "Records committed.")
        self._posts = histogram(
            "stream_app_post_seconds",
            "Time of one POST to Clay, by outcome.",
            ("destination", "outcome"),
            buckets=_SECONDS,
        )
        self._polls = counter(
            "stream_app_run_polls",
            "Polls, which ask Clay for the results of runs, by answer.",
            ("destination", "answer"),
        )
        self._durations = {
            "callback": histogram(
                "stream_app_accepted_to_callback_seconds",
                "Time from Clay's acceptance of a lead to its first callback.",
                ("destination",),
                buckets=_LONG_SECONDS,
            ),
            "done": histogram(
                "stream_app_received_to_done_seconds",
                "Time from the first event of a lead to its end, over all retries and replays.",
                ("destination",),
                buckets=_LONG_SECONDS,
            ),
        }
        self._in_flight = Gauge("stream_app_in_flight", "POSTs under way.", registry=registry)
        self._rows = Gauge(
            "stream_app_rows",
            "Rows that are held in memory, two or three a lead.",
            registry=registry,
        )
        self._recoveries = counter(
            "stream_app_recoveries",
            "Partitions loaded again after a failed transaction.",
        )
        self.expired = ExpiredRecords(registry, log)
        self._unknown = counter(
            "stream_app_unknown_rows",
            "Rows of the state topic of a kind that is not known.",
        )
        self._twice = counter(
            "stream_app_possible_double_spends",
            "Leads sent again, by policy or by an operator, though they may have reached Clay.",
            ("workspace", "destination"),
        )
        self._booked = counter(
            "stream_app_credits_booked",
            "Credits booked for leads, by the step that booked them.",
            ("destination", "status"),
        )
        self._returned = counter(
            "stream_app_credits_returned",
            "Booked credits that leads did not cost after all, by the step that corrected them.",
            ("destination", "status"),
        )
        self._hits = counter(
            "stream_app_cache_hits",
            "Leads that an earlier result answered, by the reason it was used.",
            ("destination", "reason"),
        )
        self._saved = counter(
            "stream_app_credits_saved",
            "Credits that were not spent because an earlier result answered the lead.",
            ("destination",),
        )
        self._dead = counter(
            "stream_app_dead_letters",
            "Leads that became dead letters or were rejected, by reason.",
            ("destination", "reason"),
        )
        self._commands = counter(
            "stream_app_commands",
            "Operators' commands, by kind and answer.",
            ("kind", "answer"),
        )
        self._lanes = LaneMetrics(registry, log, Clock().now_ms)
        self._answers = collections.deque[tuple[str, str]](maxlen=_LAST_ANSWERS)
        self._recovered = Throttled(
            lambda because, **at: log.warning("partition_recovered", because=because, **at),
        )

    def observe(self, in_flight: Callable[[], int], rows: Callable[[], int]) -> None:
        """Set the functions that are called when metrics are read.

        Args:
            in_flight: Returns the number of POSTs in flight.
            rows: Returns the number of rows in memory.
        """
        self._in_flight.set_function(in_flight)
        self._rows.set_function(rows)

    def unknown_rows(self, partition: int, count: int) -> None:
        """Report rows of unknown kinds. They are kept: a newer version may have written them."""
        self._unknown.inc(count)
        self._log.warning("unknown_rows", partition=partition, count=count)

    def committed(self, steps: Sequence[CommitStep], records: int, seconds: float) -> None:
        """Report a transaction. `seconds` is how long it took."""
        self._steps.inc(len(steps))
        self._records.inc(records)
        self._commit.observe(seconds)
        seen: collections.Counter[tuple[str, str, Status]] = collections.Counter()
        booked: collections.Counter[tuple[str, Status, bool]] = collections.Counter()
        for step in steps:
            for event in step.events:
                seen[event.workspace, event.destination, event.status] += 1
                if event.credits:
                    booked[event.destination, event.status, event.credits > 0] += abs(event.credits)
                if event.reason or event.saved or event.status in _WORTH_A_LINE:
                    self._explained(event)
            for duration in step.durations:
                self._measured(duration)
        for (workspace, destination, status), number in seen.items():
            self._events.labels(
                self._workspace(workspace),
                self._destination(destination),
                status,
            ).inc(number)
        for (destination, status, is_cost), credits in booked.items():
            counter = self._booked if is_cost else self._returned
            counter.labels(self._destination(destination), status).inc(credits)

    def _explained(self, event: StatusEvent) -> None:
        destination = self._destination(event.destination)
        if event.reason in RESENDS:
            self._twice.labels(self._workspace(event.workspace), destination).inc()
        if event.status == "served_from_cache":
            self._hits.labels(destination, event.reason).inc()
        if event.saved:
            self._saved.labels(destination).inc(event.saved)
        if event.status in ("dead_lettered", "rejected_invalid"):
            self._dead.labels(destination, event.reason).inc()
        if event.status in _WORTH_A_LINE or event.reason in RESENDS:
            self._log.info(
                event.status,
                lead_id=event.lead_id,
                trace_id=event.trace_id,
                workspace=event.workspace,
                reason=event.reason,
                text=event.text,
            )

    def _measured(self, duration: Duration) -> None:
        labels = (duration.until, duration.destination)
        timer = self._duration_children.get(labels)
        if timer is None:
            timer = self._durations[duration.until].labels(self._destination(duration.destination))
            self._duration_children[labels] = timer
        timer.observe(duration.ms / 1000)

    def lane(self, view: LaneView) -> None:
        self._lanes.show(view)

    def answered(self, answer: CommandAnswer) -> None:
        """Report a command that was applied or refused.

        Many commands go to every partition, and get one line.
        """
        self._commands.labels(answer.kind, "applied" if answer.applied else answer.reason).inc()
        if (answer.id, answer.text) in self._answers:
            return
        self._answers.append((answer.id, answer.text))
        self._log.info(
            "command",
            id=answer.id,
            kind=answer.kind,
            workspace=answer.workspace,
            who=answer.who,
            applied=answer.applied,
            text=answer.text,
        )

    def lane_gone(self, workspace: str) -> None:
        self._lanes.gone(workspace)

    def recovering(self, partition: int, error: Exception) -> None:
        """Report a partition that is taken over again.

        A cause that all partitions share is one line a minute.
        """
        self._recoveries.inc()
        place, _, cause = str(error).partition(": ")
        self._recovered(str(error), same=cause or place, partition=partition)

    def polled(self, destination: Destination, answer: RunAnswer) -> None:
        """Report an answer of Clay about a run."""
        self._polls.labels(self._destination(destination.alias), _POLL_ANSWERS[type(answer)]).inc()

    def posted(self, destination: str, outcome: Outcome, trace_id: str) -> None:
        """Report a finished POST.

        An exemplar costs more than the observation, so few POSTs become one.
        """
        labels = (destination, type(outcome))
        timer = self._timers.get(labels)
        if timer is None:
            name = type(outcome).__name__.lower()
            timer = self._posts.labels(self._destination(destination), name)
            self._timers[labels] = timer
        now_s = monotonic()
        if now_s >= self._next_exemplar_s.get(labels, 0.0):
            self._next_exemplar_s[labels] = now_s + _EXEMPLAR_EVERY_S
            timer.observe(outcome.latency_ms / 1000, {"trace_id": trace_id[:_TRACE_ID_DIGITS]})
        else:
            timer.observe(outcome.latency_ms / 1000)
