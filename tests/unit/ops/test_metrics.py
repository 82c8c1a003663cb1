"""The metrics of the worker and of the lanes, and the log of what was done to leads."""

from collections import Counter

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from stream_app.domain.commands import CommandAnswer
from stream_app.domain.delivery.recorder import CommitStep, Duration
from stream_app.domain.limits.meters import Meter
from stream_app.domain.model.errors import Aborted
from stream_app.domain.model.messages import RESENDS, StatusEvent
from stream_app.domain.model.outcome import Accepted
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
from stream_app.domain.views.lane import DestinationView, LaneChange, LaneView, PartHold
from stream_app.ops import lane_metrics
from stream_app.ops import logs as log
from stream_app.ops.lane_metrics import (
    MAX_NAMES,
    OTHERS,
    LaneMetrics,
    ParkedLeads,
    RunsWithoutResults,
    WaitingRecords,
)
from stream_app.ops.metrics import WorkerMetrics

TRACE = "0af7651916cd43dd8448eb211c80319c"


def emit(metrics: WorkerMetrics, *events: StatusEvent) -> None:
    """Report a transaction with these events."""
    metrics.committed([CommitStep([], [], list(events))], 1, 0.1)


@pytest.mark.parametrize("reason", sorted(RESENDS))
def test_a_lead_that_policy_or_an_operator_resends_is_reported_as_a_possible_double_spend(
    reason: str,
) -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry, log.get("test"))
    again = StatusEvent(
        "o#4",
        "lead-1",
        "replayed",
        4,
        0,
        "o",
        reason=reason,
        text="a possible double spend",
    )
    again = msgspec.structs.replace(again, workspace="acme", destination="people")
    with capture_logs() as emitted:
        emit(metrics, msgspec.structs.replace(again, reason="replayed"))
        emit(metrics, again)
    labels = {"workspace": "acme", "destination": "people"}
    assert registry.get_sample_value("stream_app_possible_double_spends_total", labels) == 1
    assert [(line["lead_id"], line["text"]) for line in emitted] == [
        ("lead-1", "a possible double spend"),
    ]


def test_a_command_that_goes_to_every_partition_is_one_line_and_each_other_outcome_another() -> (
    None
):
    metrics = WorkerMetrics(CollectorRegistry(), log.get("test"))
    with capture_logs() as emitted:
        for number in range(32):
            for name in ("c1", "c2"):
                text = (
                    "no person is on the list now"
                    if (name, number) == ("c2", 7)
                    else "1 person is on the list now"
                )
                metrics.answered(
                    CommandAnswer(name, True, 0, number, "suppress", "acme", text=text),
                )
    assert [(line["id"], line["text"][:2]) for line in emitted] == [
        ("c1", "1 "),
        ("c2", "1 "),
        ("c2", "no"),
    ]


def test_a_cause_that_all_partitions_share_is_one_line() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry, log.get("test"))
    with capture_logs() as emitted:
        for number in range(32):
            metrics.recovering(
                number,
                Aborted(f"partition {number} of state (t-{number}): the transaction failed (late)"),
            )
        metrics.recovering(
            3,
            Aborted("partition 3 of state (t-3): the transaction failed (refused)"),
        )
    assert [(line["partition"], line["because"][-8:]) for line in emitted] == [
        (0, "d (late)"),
        (3, "refused)"),
    ]
    assert registry.get_sample_value("stream_app_recoveries_total") == 33


def test_credits_and_dead_letters_are_counted_by_destination() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry, log.get("test"))
    event = StatusEvent(
        "o#1",
        "lead",
        "accepted",
        1,
        0,
        "o",
        workspace="acme",
        destination="people",
    )
    steps = (
        ("accepted", 6),
        ("accepted", 6),
        ("enriched", -2),
        ("enriched", 1),
        ("retrying", None),
    )
    emit(
        metrics,
        *(
            msgspec.structs.replace(event, status=status, credits=credits)
            for status, credits in steps
        ),
    )
    emit(metrics, msgspec.structs.replace(event, status="enriched", saved=6))
    emit(metrics, msgspec.structs.replace(event, status="dead_lettered", reason="http_503"))
    emit(metrics, msgspec.structs.replace(event, status="rejected_invalid", reason="bad_email"))
    emit(metrics, msgspec.structs.replace(event, status="served_from_cache", reason="stale"))
    values = {
        (name, label): registry.get_sample_value(
            f"stream_app_{name}_total",
            {"destination": "people"} | labels,
        )
        for name, label, labels in (
            ("credits_booked", "accepted", {"status": "accepted"}),
            ("credits_booked", "enriched", {"status": "enriched"}),
            ("credits_returned", "enriched", {"status": "enriched"}),
            ("credits_saved", "", {}),
            ("dead_letters", "http_503", {"reason": "http_503"}),
            ("dead_letters", "bad_email", {"reason": "bad_email"}),
            ("cache_hits", "stale", {"reason": "stale"}),
        )
    }
    assert list(values.values()) == [12, 1, 2, 6, 1, 1, 1]
    labels = {"workspace": "acme", "destination": "people"}
    statuses = ("accepted", "enriched", "retrying", "dead_lettered")
    assert [
        registry.get_sample_value("stream_app_lead_events_total", labels | {"status": status})
        for status in statuses
    ] == [2, 3, 1, 1]


def test_the_times_of_leads_are_shown_by_destination() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry, log.get("test"))
    durations = (
        Duration("callback", "people", 90_000),
        Duration("done", "people", 100_000),
        Duration("done", "people", 2 * 86_400_000),
    )
    metrics.committed([CommitStep([], [], [], durations=durations)], 1, 0.1)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"stream_app_{name}", {"destination": "people"} | labels)

    assert value("accepted_to_callback_seconds_sum") == 90
    assert value("received_to_done_seconds_count") == 2
    assert value("received_to_done_seconds_bucket", le="300.0") == 1
    assert value("received_to_done_seconds_bucket", le="259200.0") == 2


def test_posts_have_a_trace_id_as_exemplar_at_most_once_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry, log.get("test"))
    times_s = iter([10.0, 10.5, 11.5])
    monkeypatch.setattr("stream_app.ops.metrics.monotonic", lambda: next(times_s))
    for number, latency_ms in enumerate((40, 200, 2_000)):
        metrics.posted("people", Accepted(200, latency_ms), f"{number}" * 200)
    shown = {
        sample.exemplar.labels["trace_id"]: (sample.labels["le"], sample.exemplar.value)
        for family in registry.collect()
        for sample in family.samples
        if sample.exemplar is not None
    }
    assert shown == {"0" * 32: ("0.05", 0.04), "2" * 32: ("2.5", 2.0)}


def test_series_do_not_grow_with_the_number_of_workspaces() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry, log.get("test"))
    parked = Counter({f"w{number:05}": number + 1 for number in range(MAX_NAMES + 2)})
    registry.register(ParkedLeads(lambda: [parked, {"w00000": 1}]))
    for number in range(10 * MAX_NAMES):
        name = f"w{number:05}"
        emit(
            metrics,
            StatusEvent("o#1", "lead", "accepted", 1, 0, "o", workspace=name, destination=name),
        )
        metrics.posted(name, Accepted(200, 1), TRACE)
        metrics.committed([CommitStep([], [], [], durations=(Duration("done", name, 1),))], 1, 0.1)
    series = {
        metric.name: len({tuple(sample.labels.values()) for sample in metric.samples})
        for metric in registry.collect()
    }
    assert series["stream_app_lead_events"] == MAX_NAMES + 1
    assert series["stream_app_parked_leads"] == MAX_NAMES + 1
    assert series["stream_app_received_to_done_seconds"] == (MAX_NAMES + 1) * 14, (
        "13 buckets, and the sum"
    )
    rest = {"workspace": OTHERS, "destination": OTHERS, "status": "accepted"}
    assert registry.get_sample_value("stream_app_lead_events_total", rest) == 9 * MAX_NAMES
    posts = {"destination": OTHERS, "outcome": "accepted"}
    assert registry.get_sample_value("stream_app_post_seconds_count", posts) == 9 * MAX_NAMES
    assert registry.get_sample_value("stream_app_parked_leads", {"workspace": OTHERS}) == 4


VIEW = LaneView(
    "acme",
    0,
    1_796_083_140_000,
    "open",
    "unhealthy",
    40.0,
    4.0,
    holds="breaker_open",
    meters={
        "credits_day": Meter("2026-11-30", 0, 200, 90, 20, 10, 50),
        "actions_day": Meter("2026-11-30", 0),
    },
    submissions_left={"people": 12},
    destinations={
        "people": DestinationView(0.0, "unhealthy", 20, "open"),
        "firms": DestinationView(100.0, "insufficient_data", 4),
    },
    calls=24,
    p50_ms=210,
    p95_ms=900,
    p99_ms=1_400,
    news=(LaneChange("breaker_open", "five failures in a row"),),
)


def _samples(registry: CollectorRegistry) -> dict[str, float]:
    samples: dict[str, float] = {}
    for family in registry.collect():
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                name = sample.name.removeprefix("stream_app_lane_")
                samples[f"{name}{sorted(sample.labels.values())}"] = sample.value
    return samples


def test_a_lane_is_shown_as_it_was_last_published() -> None:
    registry = CollectorRegistry()
    metrics = LaneMetrics(registry, log.get("test"), lambda: 0)
    metrics.show(VIEW)
    first = _samples(registry)
    assert first["breaker['acme']"] == 2
    assert first["holds['acme', 'breaker_open']"] == 1
    assert first["budget_used_ratio['acme', 'credits_day']"] == 0.6
    assert "budget_used_ratio['acme', 'actions_day']" not in first, "there is no limit"
    assert first["submissions_left['acme', 'people']"] == 12
    assert [first[f"destination_score['acme', '{name}']"] for name in ("people", "firms")] == [
        0,
        100,
    ]
    assert [first[f"destination_breaker['acme', '{name}']"] for name in ("people", "firms")] == [
        2,
        0,
    ]
    assert first["changes_total['acme', 'breaker_open']"] == 1
    assert [first[f"latency_seconds['{quantile}', 'acme']"] for quantile in (0.5, 0.95, 0.99)] == [
        0.21,
        0.9,
        1.4,
    ]
    metrics.show(
        msgspec.structs.replace(
            VIEW,
            breaker="closed",
            holds="",
            news=(),
            submissions_left={},
            calls=0,
        ),
    )
    second = _samples(registry)
    assert second["breaker['acme']"] == 0
    assert not any(name.startswith(("holds", "submissions_left", "latency")) for name in second)
    assert second["changes_total['acme', 'breaker_open']"] == 1
    metrics.gone("acme")
    metrics.gone("never-seen")
    assert {name.partition("[")[0] for name in _samples(registry)} == {
        "changes_total",
        "stream_app_lanes_left_out",
    }


def _shown(registry: CollectorRegistry) -> list[str]:
    return sorted(
        name[len("breaker['") : -len("']")]
        for name in _samples(registry)
        if name.startswith("breaker[")
    )


def test_with_many_lanes_those_that_are_held_or_change_have_series(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lane_metrics, "MAX_LANES", 2)
    registry = CollectorRegistry()
    metrics = LaneMetrics(registry, log.get("test"), lambda: 0)
    minute_ms = 60_000

    def show(workspace: str, minute: int, holds: str = "") -> None:
        metrics.show(
            msgspec.structs.replace(
                VIEW,
                workspace=workspace,
                at_ms=minute * minute_ms,
                holds=holds,
                news=(),
            ),
        )

    def left_out() -> float:
        return _samples(registry)["stream_app_lanes_left_out[]"]

    show("a", 0)
    show("b", 1)
    show("c", 2)
    assert _shown(registry) == ["a", "b"], "there is no room, and none has been idle for long"
    assert left_out() == 1, "there is no room, and none has been idle for long"
    show("c", 3, "paused")
    assert _shown(registry) == ["b", "c"], "one that is held takes the place of one that is not"
    assert left_out() == 1, "one that is held takes the place of one that is not"
    show("d", 5)
    assert _shown(registry) == ["b", "c"]
    assert left_out() == 2
    show("d", 12)
    assert _shown(registry) == ["c", "d"], "one that changes takes the place of an idle one"
    assert left_out() == 2, "one that changes takes the place of an idle one"
    show("e", 60)
    show("e", 61, "paused")
    show("f", 62, "paused")
    assert _shown(registry) == ["c", "e"], "one that is held keeps its place"
    metrics.gone("c")
    metrics.gone("b")
    assert _shown(registry) == ["e"], "a lane that this process does not own is not left out"
    assert left_out() == 3, "a lane that this process does not own is not left out"
    show("f", 63, "paused")
    assert _shown(registry) == ["e", "f"]
    assert left_out() == 2


def test_with_many_lanes_one_that_is_held_in_part_has_series_like_one_that_is_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lane_metrics, "MAX_LANES", 1)
    registry = CollectorRegistry()
    metrics = LaneMetrics(registry, log.get("test"), lambda: 0)
    part = PartHold(("people",), "no_callbacks", "no callback has come")
    for workspace, partly in (("a", ()), ("b", (part,)), ("c", ())):
        view = msgspec.structs.replace(VIEW, workspace=workspace, holds="", partly=partly, news=())
        metrics.show(view)
    assert _shown(registry) == ["b"], "it takes the place of one that runs, and keeps it"
    assert _samples(registry)["destination_holds['b', 'no_callbacks', 'people']"] == 1


def test_polls_are_counted_by_answer_and_open_runs_by_destination() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry, log.get("test"))
    routine = Destination("people", "acme", kind="routine")
    answers: list[RunAnswer] = [
        RunFinished(()),
        RunUnfinished(),
        RunUnfinished(),
        RunTooLarge("x"),
        RunGone(404, "x"),
        RunDenied(401, "x"),
        RunLimited(None),
        RunUnread("reset", "x"),
    ]
    for answer in answers:
        metrics.polled(routine, answer)
    polls = {
        answer: registry.get_sample_value(
            "stream_app_run_polls_total",
            {"destination": "people", "answer": answer},
        )
        for answer in (
            "finished",
            "unfinished",
            "too_large",
            "gone",
            "denied",
            "limited",
            "unread",
        )
    }
    assert polls.pop("unfinished") == 2
    assert set(polls.values()) == {1}
    of_partitions = [{"people": (2, 5_000)}, {"people": (1, 3_000), "firms": (4, 9_000)}]
    registry.register(RunsWithoutResults(lambda: of_partitions, lambda: 10_000))
    for alias, runs, age_s in (("people", 3, 7.0), ("firms", 4, 1.0)):
        about = {"destination": alias}
        assert registry.get_sample_value("stream_app_runs_open", about) == runs
        assert registry.get_sample_value("stream_app_runs_oldest_seconds", about) == age_s


def test_records_wait_by_the_source_of_their_topic() -> None:
    registry = CollectorRegistry()
    waiting = {("acme.leads", 3): 7, ("acme.leads.commands", 3): 1}
    sources = {"acme.leads": "hot", "acme.leads.commands": "command"}
    registry.register(WaitingRecords(lambda: waiting, sources))
    for source, records in (("hot", 7), ("command", 1)):
        about = {"source": source, "partition": "3"}
        assert registry.get_sample_value("stream_app_records_waiting", about) == records
