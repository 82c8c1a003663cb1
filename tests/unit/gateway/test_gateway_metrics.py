"""What the gateway counts and logs of its answers."""

from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from stream_app.gateway import receiver
from stream_app.gateway.receiver import GatewayMetrics
from stream_app.ops import logs as log
from tests.gateway.support import Gateway, good


class Clock:
    """Both clocks of the module, which a test moves."""

    def __init__(self) -> None:
        self.now_s = 5_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(receiver, "time", SimpleNamespace(monotonic=clock, perf_counter=clock))
    return clock


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> GatewayMetrics:
    return GatewayMetrics(registry, log.get("test"))


def test_refusals_are_logged_once_a_minute_for_each_destination_and_code(
    metrics: GatewayMetrics,
    clock: Clock,
) -> None:
    begin_s = clock.now_s
    with capture_logs() as lines:
        for after_s, destination, code in (
            (0, "people", "no_token"),
            (0, "people", "no_token"),
            (1, "people", "wrong_token"),
            (2, "other", "no_token"),
            (59.9, "people", "no_token"),
            (60, "people", "no_token"),
            (119.9, "people", "no_token"),
            (120, "people", "no_token"),
            (500, "people", "no_token"),
        ):
            clock.now_s = begin_s + after_s
            metrics.answered(destination, code, 0.1)
    common = {"process": "test", "event": "callback_not_received", "log_level": "warning"}
    assert lines == [
        common | {"destination": destination, "because": because, "more_before": more}
        for destination, because, more in (
            ("people", "no_token", 0),
            ("people", "wrong_token", 0),
            ("other", "no_token", 0),
            ("people", "no_token", 2),
            ("people", "no_token", 1),
            ("people", "no_token", 0),
        )
    ]


def test_what_is_received_is_counted_and_not_logged(
    metrics: GatewayMetrics,
    registry: CollectorRegistry,
) -> None:
    with capture_logs() as lines:
        for code in ("enriched", "partial", "no_data", "enrich_error"):
            metrics.answered("people", code, 0.5)
            labels = {"destination": "people", "answer": code}
            assert registry.get_sample_value("stream_app_callbacks_total", labels) == 1
        assert lines == []
        metrics.answered("people", "kafka_away", 0.5)
        assert len(lines) == 1


def test_the_time_of_an_answer_is_told_from_5_ms_to_a_minute(
    metrics: GatewayMetrics,
    registry: CollectorRegistry,
) -> None:
    bounds = ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5"]
    bounds += ["1.0", "2.0", "5.0", "10.0", "30.0", "60.0"]
    for bound in bounds:
        metrics.answered("people", "enriched", float(bound))
    for place, bound in enumerate(bounds, 1):
        labels = {"le": bound}
        assert registry.get_sample_value("stream_app_callback_seconds_bucket", labels) == place
    metrics.answered("people", "enriched", 61.0)
    assert registry.get_sample_value("stream_app_callback_seconds_count") == len(bounds) + 1


async def test_a_callback_takes_as_long_as_its_answer(clock: Clock) -> None:
    gateway = Gateway()
    put = gateway.holding._put

    async def slow(record: object) -> None:
        clock.now_s += 2.5
        await put(record)  # type: ignore[arg-type]  # as given

    gateway.holding._put = slow
    assert (await gateway.post(good())).status_code == 200
    assert gateway.registry.get_sample_value("stream_app_callback_seconds_sum") == 2.5
    labels = {"destination": "people", "answer": "enriched"}
    assert gateway.registry.get_sample_value("stream_app_callbacks_total", labels) == 1


def test_one_fingerprint_is_in_force(metrics: GatewayMetrics, registry: CollectorRegistry) -> None:
    for digest in ("before", "now"):
        metrics.adopted(digest)
        name = "stream_app_gateway_tables_info"
        samples = [
            (sample.labels, sample.value)
            for family in registry.collect()
            for sample in family.samples
            if sample.name == name
        ]
        assert samples == [({"digest": digest}, 1.0)]
