"""The worker's metrics and log of what it did to leads."""

from __future__ import annotations

import msgspec
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from stream_app.domain.messages import RESEND, StatusEvent
from stream_app.ops import logs as log
from stream_app.ops.metrics import WorkerMetrics


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
