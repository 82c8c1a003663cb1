"""The queries of the dashboards that calculate, run by Prometheus's own promtool on series with
known results.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.promtool import ran
from tests.unit.deploy.panels import PANELS, filled

LANE = 'workspace="acme", meter="credits_day"'
SERIES = {
    # 40 credits a minute; 120 of 6,000 are spent at first.
    f"stream_app_lane_budget_cap{{{LANE}}}": "6000x120",
    f"stream_app_lane_budget_spent{{{LANE}}}": "120+40x120",
    'stream_app_lane_holds{workspace="acme", reason="paused", instance="a"}': "1x120",
    'stream_app_lane_holds{workspace="acme", reason="paused", instance="b"}': "1x120",
    'stream_app_lane_holds{workspace="globex", reason="breaker_open", instance="b"}': "1x120",
    # Globex is held as a whole, and one of its destinations for another reason besides.
    'stream_app_lane_destination_holds{workspace="globex", destination="x", reason="p"}': "1x120",
    'stream_app_lane_destination_holds{workspace="hooli", destination="y", reason="p"}': "1x120",
    'stream_app_lane_destination_holds{workspace="hooli", destination="z", reason="q"}': "1x120",
    'stream_app_lane_destination_holds{workspace="stark", destination="y", reason="p"}': "0x120",
    'stream_app_post_seconds_count{destination="people", outcome="accepted"}': "0+90x120",
    'stream_app_post_seconds_count{destination="people", outcome="ratelimited"}': "0+30x120",
    # One dead letter and one rejected lead in the whole hour: their series start at 1.
    (
        'stream_app_lead_events_total{workspace="acme", destination="people", '
        'status="dead_lettered"}'
    ): "_x110 1x10",
    (
        'stream_app_lead_events_total{workspace="acme", destination="people", '
        'status="rejected_invalid"}'
    ): "_x112 1x8",
    # 60 leads a minute: half within an hour, all within four.
    'stream_app_received_to_done_seconds_bucket{destination="people", le="3600.0"}': "0+30x120",
    'stream_app_received_to_done_seconds_bucket{destination="people", le="14400.0"}': "0+60x120",
    'stream_app_received_to_done_seconds_bucket{destination="people", le="+Inf"}': "0+60x120",
    'stream_app_cache_hits_total{destination="people", reason="stale"}': "0+120x120",
    # Two boards have the same bill.
    'stream_app_bill_taken_credits{workspace="acme", day="today", instance="a"}': "0+7x120",
    'stream_app_bill_taken_credits{workspace="acme", day="today", instance="b"}': "0+7x120",
    'stream_app_bill_taken_credits{workspace="acme", day="yesterday", instance="a"}': "5000x120",
    'stream_app_bill_unexplained_credits{workspace="acme", day="yesterday"}': "-12x120",
}
EXPECTED: dict[str, list[tuple[str, float]]] = {
    # After 2 hours 4,920 credits are spent, and 1,080 are left: 27 minutes, 0.45 hours.
    "Hours until a day's credits are gone": [('{workspace="acme"}', 0.45)],
    "Lanes held": [("{}", 2)],
    "Lanes held: in part": [("{}", 1)],
    "Accepted by Clay, of all sent": [("{}", 0.75)],
    "New dead letters": [('{destination="people"}', 2)],
    "Time until done, 95 %": [('{destination="people"}', 13_320)],
    "Leads answered by the cache": [('{reason="stale"}', 2)],
    "Taken by Clay and booked, today": [('{workspace="acme"}', 840)],
    "Not explained of Clay's bill": [('{workspace="acme", day="yesterday"}', -12)],
}


@pytest.mark.promtool
def test_panels_that_calculate_show_the_right_value(tmp_path: Path) -> None:
    panels = [panel for uid, panel in PANELS if uid == "stream-app-overview"]
    queries = {panel["title"]: panel["targets"][0]["expr"] for panel in panels} | {
        f"{panel['title']}: {target['legendFormat']}": target["expr"]
        for panel in panels
        for target in panel["targets"][1:]
    }
    test: dict[str, Any] = {
        "interval": "1m",
        "input_series": [
            {"series": name.replace("{", f'{{release="{release}", ', 1), "values": values}
            for name, values in SERIES.items()
            for release in ("leads/a", "leads/b")
        ],
        "promql_expr_test": [
            {
                "expr": f"round({filled(queries[title], 'leads/a', '15m', '2h')}, 0.0001)",
                "eval_time": "2h",
                "exp_samples": [{"labels": labels, "value": value} for labels, value in samples],
            }
            for title, samples in EXPECTED.items()
        ],
    }
    path = tmp_path / "dashboards.test.yml"
    path.write_text(yaml.safe_dump({"tests": [test]}))
    code, output = ran("test", "rules", path)
    assert code == 0, output
