"""deploy/alerts.yml is generated from the conditions, which hold where Prometheus says that an alert fires."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream_app.notify.conditions import CONDITIONS, COUNTERS, LONGEST_WINDOW_S
from stream_app.notify.samples import Sample, Samples
from stream_app.notify.watch import Watch
from tests.support.pace import BUSY

ROOT = Path(__file__).parents[3]
# As text: `0x20` is no hexadecimal number here.
TEXT = (ROOT / "tests/repository/alerts.test.yml").read_text()
CASES: list[dict[str, Any]] = yaml.load(TEXT, Loader=yaml.BaseLoader)["tests"]
JOBS = ("worker", "replay", "gateway")
UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds(text: str) -> float:
    return float(text[:-1]) * UNITS[text[-1]]


def test_the_alerts_for_prometheus_are_generated(tmp_path: Path) -> None:
    path = tmp_path / "alerts.yml"
    subprocess.run([sys.executable, ROOT / "deploy/alerts.py", path], check=True, timeout=60 * BUSY)
    assert path.read_text() == (ROOT / "deploy/alerts.yml").read_text(), "write it again: python deploy/alerts.py"


def values_of(text: str) -> list[float | None]:
    """A series in promtool's notation: `0 2x3` is 0 2 2 2 2, `1+2x2` is 1 3 5, `_` is no value."""
    found: list[float | None] = []
    for word in text.split():
        if match := re.fullmatch(r"_(?:x(\d+))?", word):
            found += [None] * int(match[1] or 1)
        elif match := re.fullmatch(r"([\d.]+)(?:\+([\d.]+))?(?:x(\d+))?", word):
            start, step = float(match[1]), float(match[2] or 0)
            found += [start + step * number for number in range(int(match[3] or 0) + 1)]
        else:
            raise ValueError(word)
    return found


def series_of(case: dict[str, Any]) -> Iterator[tuple[str, str, Sample, list[float | None]]]:
    """Job, instance, and name, labels and values of each series. `up` has the name "up"."""
    job_of = {metric: each.job for each in CONDITIONS for metric in each.expression.metrics}
    for given in case["input_series"]:
        name, inside = re.fullmatch(r"(\w+)\{(.*)\}", given["series"]).groups()  # type: ignore[union-attr]
        labels = dict(re.findall(r'(\w+)="([^"]*)"', inside))
        job, instance = labels.pop("job", None) or job_of[name], labels.pop("instance", "one")
        yield job, instance, Sample(name, labels, 0), values_of(given["values"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_conditions_fire_where_the_alerts_do(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream_app.notify.watch._CALM_S", 0)  # Prometheus resolves at once
    assert case["interval"] == "1m"
    series = list(series_of(case))
    down = {(job, instance) for job, instance, sample, values in series if sample.metric == "up" and not values[0]}
    processes = {(job, instance) for job, instance, _, _ in series} - down
    samples, watch = Samples(COUNTERS, LONGEST_WINDOW_S), Watch((), 0, JOBS)
    looks = sorted(case["alert_rule_test"], key=lambda look: seconds(look["eval_time"]))
    last = int(seconds(looks[-1]["eval_time"]) / 60)
    seen: dict[int, dict[str, list[tuple[dict[str, str], str]]]] = {}
    for minute in range(last + 1):
        for job in JOBS:
            samples.expect(job, {instance for of, instance in processes if of == job}, minute * 60)
        for job, instance in processes:
            shown = [
                Sample(sample.metric, sample.labels, value)
                for of, at, sample, values in series
                if (of, at) == (job, instance) and sample.metric != "up"
                if minute < len(values) and (value := values[minute]) is not None
            ]
            samples.answered(job, instance, shown, minute * 60)
        watch.look(samples, minute * 60_000)
        seen[minute] = {}
        for alert in watch.firing.values():
            labels = {name: value for name, value in alert.labels.items() if name != "job"}
            seen[minute].setdefault(alert.name, []).append((labels | {"severity": alert.severity}, alert.summary))
    for look in looks:
        expected = [
            (dict(alert["exp_labels"]), alert["exp_annotations"]["summary"]) for alert in look.get("exp_alerts", [])
        ]
        found = seen[int(seconds(look["eval_time"]) / 60)].get(look["alertname"], [])
        assert sorted(found, key=str) == sorted(expected, key=str), look
