"""The worker's metrics and log of what it did to leads."""

from __future__ import annotations

from collections import Counter

import msgspec
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from stream_app.domain.delivery.outcome import Accepted
from stream_app.domain.messages import RESEND, StatusEvent
from stream_app.ops import logs as log
from stream_app.ops.bounded_labels import MOST_NAMES, OTHERS
from stream_app.ops.metrics import ParkedLeads, WorkerMetrics


def test_a_lead_resent_by_policy_is_counted_and_reported_as_a_possible_double_spend() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry, log.get("test"))
    again = StatusEvent("o#4", "lead-1", "replayed", 4, 0, "o", reason=RESEND, text="a possible double spend")
    again = msgspec.structs.replace(again, workspace="acme", destination="people")
    with capture_logs() as emitted:
        metrics.emitted(msgspec.structs.replace(again, reason="replayed"))
        metrics.emitted(again)
    labels = {"workspace": "acme", "destination": "people"}
    assert registry.get_sample_value("stream_app_possible_double_spends_total", labels) == 1
    assert [(line["lead_id"], line["text"]) for line in emitted] == [("lead-1", "a possible double spend")]


def test_credits_and_dead_letters_are_counted_by_destination() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry, log.get("test"))
    event = StatusEvent("o#1", "lead", "accepted", 1, 0, "o", workspace="acme", destination="people")
    for status, credits in (("accepted", 6), ("accepted", 6), ("enriched", -2), ("enriched", 1), ("retrying", None)):
        metrics.emitted(msgspec.structs.replace(event, status=status, credits=credits))
    metrics.emitted(msgspec.structs.replace(event, status="enriched", saved=6))
    metrics.emitted(msgspec.structs.replace(event, status="dead_lettered", reason="http_503"))
    found = {
        (name, label): registry.get_sample_value(f"stream_app_{name}_total", {"destination": "people"} | labels)
        for name, label, labels in (
            ("credits_booked", "accepted", {"status": "accepted"}),
            ("credits_booked", "enriched", {"status": "enriched"}),
            ("credits_returned", "enriched", {"status": "enriched"}),
            ("credits_saved", "", {}),
            ("dead_letters", "http_503", {"reason": "http_503"}),
        )
    }
    assert list(found.values()) == [12, 1, 2, 6, 1]


def test_series_do_not_grow_with_the_number_of_workspaces() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry, log.get("test"))
    parked = Counter({f"w{number:05}": number + 1 for number in range(MOST_NAMES + 2)})
    registry.register(ParkedLeads(lambda: [parked, {"w00000": 1}]))
    for number in range(10 * MOST_NAMES):
        name = f"w{number:05}"
        metrics.emitted(StatusEvent("o#1", "lead", "accepted", 1, 0, "o", workspace=name, destination=name))
        metrics.posted(name, Accepted(200, 1))
    series = {
        metric.name: len({tuple(sample.labels.values()) for sample in metric.samples}) for metric in registry.collect()
    }
    assert series["stream_app_lead_events"] == MOST_NAMES + 1
    assert series["stream_app_parked_leads"] == MOST_NAMES + 1
    rest = {"workspace": OTHERS, "destination": OTHERS, "status": "accepted"}
    assert registry.get_sample_value("stream_app_lead_events_total", rest) == 9 * MOST_NAMES
    posts = {"destination": OTHERS, "outcome": "accepted"}
    assert registry.get_sample_value("stream_app_post_seconds_count", posts) == 9 * MOST_NAMES
    assert registry.get_sample_value("stream_app_parked_leads", {"workspace": OTHERS}) == 4
