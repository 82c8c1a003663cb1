"""Writes each dashboard to `<uid>.json` in deploy/grafana/dashboards, or in the directory that is named."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from stream_app.dev.dashboards.build import build
from stream_app.dev.dashboards.lane import LANE
from stream_app.dev.dashboards.machine_room import MACHINE_ROOM
from stream_app.dev.dashboards.overview import OVERVIEW

DASHBOARDS: Final = (OVERVIEW, LANE, MACHINE_ROOM)
_DIRECTORY: Final = Path(__file__).parents[3] / "deploy" / "grafana" / "dashboards"


def write(directory: Path) -> None:
    """Write each dashboard to `<uid>.json`."""
    for source in DASHBOARDS:
        (directory / f"{source.uid}.json").write_text(build(source), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else _DIRECTORY)
