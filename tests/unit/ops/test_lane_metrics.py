"""The lanes' metrics: what was last published, nothing of what is past, and news once."""

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from stream_app.domain.lane.meters import Meter
from stream_app.domain.lane_messages import LaneChange, LaneView
from stream_app.ops import lane_metrics
from stream_app.ops import logs as log
from stream_app.ops.lane_metrics import LaneMetrics

VIEW = LaneView(
    "acme",
    0,
    1_796_083_140_000,
    "open",
    "unhealthy",
    40.0,
    4.0,
    holds="breaker_open",
    meters={"credits_day": Meter("2026-11-30", 0, 200, 90, 20, 10, 50), "actions_day": Meter("2026-11-30", 0)},
    submissions_left={"people": 12},
    calls=24,
    p50_ms=210,
    p95_ms=900,
    p99_ms=1_400,
    news=(LaneChange("breaker_open", "five failures in a row"),),
)


def _samples(registry: CollectorRegistry) -> dict[str, float]:
    return {
        f"{sample.name.removeprefix('stream_app_lane_')}{sorted(sample.labels.values())}": sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_a_lane_is_shown_as_it_was_last_published() -> None:
    registry = CollectorRegistry()
    metrics = LaneMetrics(registry, log.get("test"))
    metrics.show(VIEW)
    first = _samples(registry)
    assert first["breaker['acme']"] == 2
    assert first["holds['acme', 'breaker_open']"] == 1
    assert first["budget_used_ratio['acme', 'credits_day']"] == 0.6
    assert "budget_used_ratio['acme', 'actions_day']" not in first, "there is no limit"
    assert first["submissions_left['acme', 'people']"] == 12
    assert first["changes_total['acme', 'breaker_open']"] == 1
    assert [first[f"latency_seconds['{quantile}', 'acme']"] for quantile in (0.5, 0.95, 0.99)] == [0.21, 0.9, 1.4]
    metrics.show(msgspec.structs.replace(VIEW, breaker="closed", holds="", news=(), submissions_left={}, calls=0))
    second = _samples(registry)
    assert second["breaker['acme']"] == 0
    assert not any(name.startswith(("holds", "submissions_left", "latency")) for name in second)
    assert second["changes_total['acme', 'breaker_open']"] == 1


def test_of_a_lane_that_is_gone_nothing_is_left_but_its_counters() -> None:
    registry = CollectorRegistry()
    metrics = LaneMetrics(registry, log.get("test"))
    metrics.show(VIEW)
    metrics.gone("acme")
    metrics.gone("never-seen")
    names = {name.partition("[")[0] for name in _samples(registry)}
    assert names == {"changes_total", "stream_app_lanes_left_out"}


def _shown(registry: CollectorRegistry) -> list[str]:
    return sorted(name[len("breaker['") : -len("']")] for name in _samples(registry) if name.startswith("breaker["))


def test_with_many_lanes_those_that_are_held_or_change_have_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_metrics, "MOST_LANES", 2)
    registry = CollectorRegistry()
    metrics = LaneMetrics(registry, log.get("test"))
    minute_ms = 60_000

    def show(workspace: str, minute: int, holds: str = "") -> None:
        metrics.show(msgspec.structs.replace(VIEW, workspace=workspace, at_ms=minute * minute_ms, holds=holds, news=()))

    def left_out() -> float:
        return _samples(registry)["stream_app_lanes_left_out[]"]

    show("a", 0)
    show("b", 1)
    show("c", 2)
    assert (_shown(registry), left_out()) == (["a", "b"], 1), "there is no room, and none has been idle for long"
    show("c", 3, "paused")
    assert (_shown(registry), left_out()) == (["b", "c"], 1), "one that is held takes the place of one that is not"
    show("d", 5)
    assert (_shown(registry), left_out()) == (["b", "c"], 2)
    show("d", 12)
    assert (_shown(registry), left_out()) == (["c", "d"], 2), "one that changes takes the place of an idle one"
    show("e", 60)
    show("e", 61, "paused")
    show("f", 62, "paused")
    assert _shown(registry) == ["c", "e"], "one that is held keeps its place"
    metrics.gone("c")
    metrics.gone("b")
    assert (_shown(registry), left_out()) == (["e"], 3), "a lane that this process does not own is not left out"
    show("f", 63, "paused")
    assert (_shown(registry), left_out()) == (["e", "f"], 2)
