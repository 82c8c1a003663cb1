"""What messages are made of: the findings that the board shows, while its read model follows Kafka."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_app.board.access import STRANGER
from stream_app.board.notify import alert_of, board_findings
from stream_app.board.read_model.board_query import BoardQueries
from stream_app.board.read_model.follow import ProjectionLag
from stream_app.board.site import STALE_MS, Moment, Site, overview
from stream_app.domain.lane.explain import Finding, Group
from stream_app.kafka.groups import Consumption
from tests.board.clock import NOW_MS
from tests.board.scene import Consumers, settings_of

FOLLOWS = ProjectionLag(NOW_MS - 1_000)
TROUBLE = [Finding("read_model", "", holds=False)]


@pytest.fixture
def site(folder: Path) -> Site:
    settings = settings_of(folder)
    return Site(settings, BoardQueries(folder / "model.sqlite", settings.without_callbacks))


async def test_they_are_those_of_the_page_now(site: Site) -> None:
    consumers = Consumers()
    findings, is_whole = await board_findings(site, FOLLOWS, consumers, NOW_MS)
    shown = overview(site, Moment(NOW_MS, FOLLOWS, consumers.now, STRANGER))
    assert is_whole
    assert findings == [*shown.everywhere, *(finding for lane in shown.lanes for finding in lane.findings)]
    alerts = [alert.key for finding in findings if (alert := alert_of(finding, NOW_MS)) is not None]
    assert alerts == [("webhook_gone", "acme")]


async def test_no_worker_is_one_of_them(site: Site) -> None:
    consumers = Consumers()
    consumers.now = Consumption(Group("Empty", 0), Group("Stable", 1), {})
    findings, _ = await board_findings(site, FOLLOWS, consumers, NOW_MS)
    assert "no_worker" in [finding.code for finding in findings]


async def test_nothing_is_known_of_lanes_while_kafka_is_away_or_the_model_is_behind(site: Site, tmp_path: Path) -> None:
    consumers = Consumers()
    away = ProjectionLag(NOW_MS, trouble="Kafka at 127.0.0.1:9092 did not answer within 10 s")
    assert await board_findings(site, away, consumers, NOW_MS) == (TROUBLE, False)
    for lag in (ProjectionLag(), ProjectionLag(NOW_MS - STALE_MS - 1)):
        assert await board_findings(site, lag, consumers, NOW_MS) == ([], False)
    missing = Site(site.settings, BoardQueries(tmp_path / "missing.sqlite", set()))
    assert await board_findings(missing, FOLLOWS, consumers, NOW_MS) == (TROUBLE, False)
    consumers.now = None
    assert await board_findings(site, FOLLOWS, consumers, NOW_MS) == ([], False)
