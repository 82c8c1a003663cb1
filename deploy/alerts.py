"""Generates the alerts for Prometheus: `python deploy/alerts.py` writes deploy/alerts.yml.

An argument names another file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import yaml

from stream_app.notify.conditions import CONDITIONS, Condition
from stream_app.notify.expressions import duration_of

_FILE: Final = Path(__file__).with_suffix(".yml")
_HEAD: Final = """\
# Generated from stream_app/notify/conditions.py: python deploy/alerts.py
# A series of lead events starts at 1, with its first event, and `increase` does not count that event. So the increase
# of a series that is younger than the window is its value.
"""


def rule_of(condition: Condition) -> dict[str, Any]:
    """Return the condition as a rule of Prometheus."""
    held = {"for": duration_of(condition.for_s)} if condition.for_s else {}
    return {
        "alert": condition.name,
        "expr": condition.expression.promql,
        **held,
        "labels": {"severity": condition.severity},
        "annotations": {"summary": condition.summary},
    }


def write(path: Path) -> None:
    """Write the rules of all conditions."""
    groups = [{"name": "stream-app", "rules": [rule_of(each) for each in CONDITIONS]}]
    path.write_text(_HEAD + yaml.safe_dump({"groups": groups}, sort_keys=False, width=1_000), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else _FILE)
