"""The Grafana dashboards: generated, without the usual faults, and on metrics that exist."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from tests.support.metrics import known_samples
from tests.support.pace import BUSY
from tests.unit.deploy.panels import BOARDS, GRAFANA, PANELS, filled

ROOT = Path(__file__).parents[3]
PROMETHEUS_OWN = {"up": {"job", "instance", "release"}}
OF_THE_TARGET = {"job", "instance", "release", "le"}
NOT_SHOWN = {
    "process_start_time_seconds": "the versions show a restart",
    "process_virtual_memory_bytes": "resident memory counts",
    "stream_app_notify_messages_total": "messages are for installations without Prometheus",
    "stream_app_lanes_left_out": "0 for all workers with up to 1,000 lanes",
}
"""Samples that are on no panel, with the reason."""
NEEDS_NO_PANEL = ("_created", "_seconds_sum", "_seconds_count")
"""When a series was born, and what the quantiles of a histogram show as well."""

each_panel = pytest.mark.parametrize(
    ("uid", "panel"),
    PANELS,
    ids=[f"{uid}: {panel['title']}" for uid, panel in PANELS],
)


def queries(board: dict[str, Any]) -> Iterator[str]:
    for panel in board["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))
    yield from (
        annotation["expr"]
        for annotation in board["annotations"].get("list", [])
        if annotation.get("expr")
    )


def selectors(query: str) -> Iterator[tuple[str, set[str]]]:
    """Name and labels of each selector of a query."""
    for name, labels in re.findall(r"\b((?:stream_app|process)_\w+|up)\b(?:\{([^}]*)\})?", query):
        yield name, set(re.findall(r'(\w+)(?:=~|!=|!~|=)"', labels))


def test_the_files_are_generated(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, str(GRAFANA / "generate.py"), str(tmp_path)],
        check=True,
        timeout=60 * BUSY,
    )
    new = {path.name: path.read_text() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text() for path in (GRAFANA / "dashboards").iterdir()}
    assert new == kept, "write them again: python deploy/grafana/generate.py"


@each_panel
def test_a_panel_says_what_it_shows(uid: str, panel: dict[str, Any]) -> None:
    assert panel["description"].endswith("."), "what it shows, in a sentence"
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for target in panel["targets"]:
        assert target["legendFormat"]


@each_panel
def test_only_an_axis_of_values_below_0_has_no_least_value(uid: str, panel: dict[str, Any]) -> None:
    is_signed = any("unexplained" in target["expr"] for target in panel["targets"])
    assert panel["fieldConfig"]["defaults"].get("min") == (None if is_signed else 0)


@pytest.mark.parametrize("uid", BOARDS)
def test_a_dashboard_can_be_kept_and_is_found(uid: str) -> None:
    board = BOARDS[uid]
    assert board["uid"] == uid
    assert board["editable"] is False
    assert board["tags"] == ["stream-app"]
    first, release, *others = board["templating"]["list"]
    assert first["name"] == "datasource"
    assert first["type"] == "datasource"
    assert release["name"] == "release", "one at a time"
    assert release["includeAll"] is False, "one at a time"
    assert release["multi"] is False, "one at a time"
    for variable in others:
        assert 'release="$release"' in variable["query"]
    for variable in (release, *others):
        assert variable["datasource"]["uid"] == "${datasource}"
        assert any(f"${variable['name']}" in query for query in queries(board)), (
            f"${variable['name']} changes nothing"
        )


@pytest.mark.parametrize(
    ("uid", "query"),
    [(uid, query) for uid, board in BOARDS.items() for query in queries(board)],
)
def test_a_query_is_valid_and_knows_only_what_exists(uid: str, query: str) -> None:
    promql_parser.parse(filled(query))
    samples = known_samples() | PROMETHEUS_OWN
    names = list(selectors(query))
    assert names
    for name, labels in names:
        assert name in samples, f"{name} is no metric of ours"
        assert labels <= samples[name] | OF_THE_TARGET
        assert "release" in labels, "another release would be in the panel"
    kept = {
        label.strip()
        for group in re.findall(r"by \(([^)]*)\)", query)
        for label in group.split(",")
    }
    assert kept <= OF_THE_TARGET.union(*(samples[name] for name, _ in names))
    for window in re.findall(r"(?:rate|increase)\([^[]*\[([^\]]+)\]", query):
        assert window in ("$__rate_interval", "$__range", "1m")


def test_each_metric_is_on_a_panel_or_in_an_alert_or_has_a_reason() -> None:
    used = {
        name
        for board in BOARDS.values()
        for query in queries(board)
        for name, _ in selectors(query)
    }
    alerts = (ROOT / "deploy" / "alerts.yml").read_text()
    for name in known_samples():
        if not name.endswith(NEEDS_NO_PANEL):
            assert (name in used or name in alerts) != (name in NOT_SHOWN), name


def test_grafana_of_compose_is_given_the_dashboards_and_prometheus() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    target = dict(volume.split(":")[:2] for volume in compose["grafana"]["volumes"])[
        "configuration"
    ]
    environment = compose["grafana"]["environment"]
    assert environment["GF_PATHS_PROVISIONING"] == f"{target}/grafana/provisioning"
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/stream-app.yaml").read_text())[
        "providers"
    ][0]
    assert provider["options"]["path"] == f"{target}/grafana/dashboards"
    home = environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (GRAFANA / "dashboards" / home.removeprefix(f"{target}/grafana/dashboards/")).is_file()
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
