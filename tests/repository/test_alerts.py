"""The alerts: on metrics that exist, each with a section, and run by Prometheus's promtool."""

import re
from pathlib import Path
from typing import Any, get_args

import promql_parser
import pytest
import yaml

from stream_app.domain.books.records import STATES
from stream_app.domain.lane.holds import REASONS
from stream_app.domain.limits.breaker import Mode
from stream_app.domain.model.messages import Status
from stream_app.gateway import callback_answers
from stream_app.partition.in_flight import Source
from tests.repository.alert_lives import (
    ALL_IS_WELL,
    BEGAN,
    CRASHES,
    LAST,
    LIVES,
    ONE_RESTART,
    RELEASE,
    brief,
    restart_after,
    series_of,
)
from tests.repository.rules import RULE, RULES
from tests.support.metrics import known_samples
from tests.support.promtool import ran

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/alerts.md").read_text()
SECTION = re.compile(
    r"^### (\w+)\n\n"
    r"(Critical|Warning)\. Begins after (\d+) min(?:utes?)?, is over within (\d+)\.\n\n"
    r"\*\*What it means\.\*\* .+?\n\n"
    r"\*\*How to see it\.\*\* .+?\n\n"
    r"\*\*What to do\.\*\* .+?\n(?=\n##|\Z)",
    re.MULTILINE | re.DOTALL,
)
SECTIONS = {match[1]: match for match in SECTION.finditer(PAGE)}
OF_THE_TARGET = {"job", "instance", "release"}
ANSWERS = {
    answer.code
    for answer in [*vars(callback_answers).values(), *callback_answers.REFUSED_TOKEN.values()]
    if isinstance(answer, callback_answers.CallbackAnswer)
}
VALUES: dict[str, set[str]] = {
    "status": set(get_args(Status)),
    "job": {"worker", "replay", "gateway", "board", "trace"},
    "answer": ANSWERS,
    "source": set(get_args(Source)),
    "mode": set(get_args(Mode)),
    "reason": {
        "batch_too_large",
        "budget_(credits|actions)_(day|month)",
        *(code.replace("*", ".*") for code in REASONS),
    },
    "workspace": {""},
    "topic": {"dlq", "parked"},
    "state": {*STATES},
}
"""What a label can be, by the code; as a regular expression where there are many."""
TITLES = re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)


def written(directory: Path, name: str, tests: list[dict[str, Any]], rules: str) -> Path:
    """A file of tests and, beside it, the rules that they are of."""
    path = directory / f"{name}.test.yml"
    of = directory / f"{name}.yml"
    of.write_text(rules)
    path.write_text(
        yaml.safe_dump({"rule_files": [str(of)], "evaluation_interval": "1m", "tests": tests}),
    )
    return path


def grouped_by(query: str) -> set[str]:
    """The labels that an alert keeps."""
    return {label for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(", ")}


def alone(name: str) -> str:
    """A file with one of the rules."""
    return yaml.safe_dump(
        {"groups": [{"name": "stream-app", "rules": [RULE[name]]}]},
        width=10_000,
    )


# ----------------------------------------------------------------------------------------- the file


@pytest.mark.promtool
def test_prometheus_accepts_the_rules_and_the_configuration() -> None:
    code, output = ran("check", "rules", RULES)
    assert code == 0, output
    assert f"{len(RULE)} rules found" in output
    code, output = ran("check", "config", ROOT / "deploy/prometheus.yml")
    assert code == 0, output


@pytest.mark.parametrize("name", RULE)
def test_an_alert_says_what_to_do(name: str) -> None:
    annotations = RULE[name]["annotations"]
    assert annotations.keys() == {"summary", "description", "runbook_url"}
    assert not re.search(r"\{\{|\n", annotations["description"]), "it is the same for all"
    assert annotations["summary"].endswith((".", "?", "`"))
    assert annotations["runbook_url"] == (
        f"https://github.com/stream-app/stream-app/blob/main/docs/alerts.md#{name.lower()}"
    )
    assert name in SECTIONS, "docs/alerts.md: a section of the form of the others"
    assert SECTIONS[name][2].lower() == RULE[name]["labels"]["severity"]


@pytest.mark.parametrize("name", RULE)
def test_an_alert_is_on_metrics_and_labels_that_exist(name: str) -> None:
    rule = RULE[name]
    samples = known_samples() | {"up": set[str]()}
    promql_parser.parse(rule["expr"])
    selectors = re.findall(r"\b(stream_app_\w+|up)\b(\{[^}]*\})?", rule["expr"])
    assert selectors
    for metric, braces in selectors:
        assert metric in samples, f"{metric} is no metric of ours"
        matchers = re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', braces)
        assert ("release", "=", RELEASE) in matchers, f"{metric}: another release would be counted"
        assert {label for label, _, _ in matchers} <= samples[metric] | OF_THE_TARGET
        for label, _, value in matchers:
            words = [value] if "(" in value else value.split("|")
            assert label == "release" or set(words) <= VALUES[label], (
                f"{label}={value}: no series has that"
            )
    labels = OF_THE_TARGET.union(*(samples[metric] for metric, _ in selectors))
    kept = grouped_by(rule["expr"])
    assert kept <= labels
    assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= kept
    assert rule["labels"].keys() == {"severity", "release"}


def test_the_page_has_the_alerts_in_the_order_of_the_file() -> None:
    assert list(RULE) == TITLES


# ----------------------------------------------------------------------------------- when they fire


def lives(name: str, beside: str) -> list[dict[str, Any]]:
    """The lives of an alert, each with that of another release, in which it is well or ill when
    this one is not.

    `beside`: the name of the other release.
    """
    life = LIVES[name]
    begins = int(SECTIONS[name][3])
    ends = int(SECTIONS[name][4])
    too_brief = max(begins - 2, 0) if life.brief is None else life.brief
    silent = [_always(name, 0, 0, LAST)]

    def fires(after: int = begins) -> list[dict[str, Any]]:
        return [
            _always(name, 0, 0, BEGAN + max(begins - 2, -1)),
            _always(name, 1, BEGAN + after, life.lasts_until),
            _always(name, 0, life.lasts_until + 1 + ends, LAST),
        ]

    courses = [
        ("in this release", life.series, life.usual, fires()),
        ("in another release", life.series, ALL_IS_WELL, silent),
        ("its process crashes again and again", life.series, CRASHES, fires(begins + life.late)),
        ("a part of it", life.also, life.usual, fires()),
        ("something harmless", life.harmless, life.usual, silent),
        ("too brief", life.series, brief(too_brief), silent if too_brief else []),
    ]
    if begins > 1:
        restarted = restart_after(begins // 2)
        courses += [
            (
                f"its process restarts before it fires{of_part}",
                series,
                restarted,
                fires(begins + life.late),
            )
            for of_part, series in (("", life.series), (", of a part", life.also))
        ]
    return [
        {
            "name": f"{name}: {words}",
            "interval": "1m",
            "input_series": [
                *series_of(series, RELEASE, course),
                *series_of(
                    life.series,
                    beside,
                    ALL_IS_WELL if course.began is not None else ONE_RESTART,
                ),
            ],
            "promql_expr_test": expected,
        }
        for words, series, course, expected in courses
        if series
    ]


def _always(name: str, firing: int, first: int, last: int) -> dict[str, Any]:
    """A look at an alert in each minute from the first to the last."""
    now = f'count(ALERTS{{alertname="{name}", alertstate="firing"}}) or vector(0)'
    worst = "min" if firing else "max"
    return {
        "expr": f"{worst}_over_time(({now})[{last - first}m:1m])",
        "eval_time": f"{last}m",
        "exp_samples": [{"labels": "{}", "value": firing}],
    }


def test_each_alert_has_a_life() -> None:
    assert LIVES.keys() == RULE.keys()


@pytest.mark.promtool
@pytest.mark.timeout(400)
def test_an_alert_fires_for_its_cause_alone_whenever_its_process_restarts(tmp_path: Path) -> None:
    files = [written(tmp_path, name, lives(name, "prod/other"), alone(name)) for name in RULE]
    code, output = ran("test", "rules", *files)
    assert code == 0, output


# ------------------------------------------------------------------------------- what they say


@pytest.mark.promtool
@pytest.mark.parametrize(
    ("filled", "price"),
    [
        ("21", "In the last hour each has cost 24.3 credits. "),
        ("510", "In the last hour each has cost 1 credit. "),
        ("51", "In the last hour each has cost 10 credits. "),
        ("0", ""),
        (None, ""),
    ],
    ids=["some", "one credit each", "ten credits each", "none", "without the board"],
)
def test_a_yield_that_fell_names_its_column_and_what_a_value_costs(
    tmp_path: Path,
    filled: str | None,
    price: str,
) -> None:
    place = 'release="stream-app", workspace="acme", destination="people", column="work_email"'
    samples = {"stream_app_lane_yield_fell": ("1", 'job="worker"')}
    if filled is not None:
        samples |= {
            "stream_app_yield_credits": ("510", 'job="board", window="hour"'),
            "stream_app_yield_filled": (filled, 'job="board", window="hour"'),
        }
    assert samples.keys() <= known_samples().keys()
    series = [
        {"series": f"{name}{{{place}, {more}}}", "values": f"{value}x5"}
        for name, (value, more) in samples.items()
    ]
    annotations = RULE["YieldFell"]["annotations"]
    summary = (
        "Clay finds work_email for far fewer leads of people in acme than before: does a provider "
        f"fail? {price}`stream-app yield` has the numbers."
    )
    firing = {
        "exp_labels": {
            **RULE["YieldFell"]["labels"],
            "workspace": "acme",
            "destination": "people",
            "column": "work_email",
        },
        "exp_annotations": {**annotations, "summary": summary},
    }
    test = {
        "interval": "1m",
        "input_series": series,
        "alert_rule_test": [
            {"eval_time": "2m", "alertname": "YieldFell", "exp_alerts": [firing]},
        ],
    }
    code, output = ran("test", "rules", written(tmp_path, "says", [test], alone("YieldFell")))
    assert code == 0, output
