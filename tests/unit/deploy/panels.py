"""The panels of the dashboards."""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
GRAFANA = ROOT / "deploy" / "grafana"
BOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text())
    for path in sorted((GRAFANA / "dashboards").glob("*.json"))
}
PANELS = [
    (uid, panel)
    for uid, board in BOARDS.items()
    for panel in board["panels"]
    if panel["type"] != "row"
]


def filled(query: str, release: str = "r", interval: str = "1m", range_: str = "6h") -> str:
    """A query as Grafana sends it."""
    query = re.sub(r"\$(workspace|destination|instance)", ".*", query).replace("$release", release)
    return query.replace("$__rate_interval", interval).replace("$__range", range_)
