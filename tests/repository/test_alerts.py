"""The alerts' rules, checked and run by Prometheus's own promtool."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from tests.support.pace import BUSY
from tests.support.promtool import promtool

ROOT = Path(__file__).parents[2]
RULES, TESTS = ROOT / "deploy/alerts.yml", ROOT / "tests/repository/alerts.test.yml"
ALERTS = [rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def _promtool(*argv: str) -> tuple[int, str]:
    ran = subprocess.run([promtool(), *argv], capture_output=True, text=True, timeout=60 * BUSY, check=False)
    return ran.returncode, ran.stdout + ran.stderr


@pytest.mark.timeout(400)  # the first time it is fetched
def test_prometheus_accepts_the_rules_and_the_configuration() -> None:
    code, said = _promtool("check", "rules", str(RULES))
    assert code == 0, said
    assert f"{len(ALERTS)} rules found" in said
    code, said = _promtool("check", "config", str(ROOT / "deploy/prometheus.yml"))
    assert code == 0, said


@pytest.mark.timeout(400)
def test_each_alert_fires_when_it_should() -> None:
    code, said = _promtool("test", "rules", str(TESTS))
    assert code == 0, said


@pytest.mark.timeout(400)
def test_a_wrong_rule_is_found(tmp_path: Path) -> None:
    broken = tmp_path / "alerts.yml"
    broken.write_text(RULES.read_text().replace(">= 0.95", ">= 0.5"))
    tests = tmp_path / "alerts.test.yml"
    tests.write_text(TESTS.read_text().replace("../deploy/alerts.yml", "alerts.yml"))
    code, said = _promtool("test", "rules", str(tests))
    assert code != 0
    assert "BudgetNearlySpent" in said


def test_each_alert_is_seen_firing_and_silent() -> None:
    seen: defaultdict[str, set[bool]] = defaultdict(set)
    for test in yaml.safe_load(TESTS.read_text())["tests"]:
        for look in test["alert_rule_test"]:
            seen[look["alertname"]].add(bool(look.get("exp_alerts")))
    assert dict(seen) == {alert: {True, False} for alert in ALERTS}
