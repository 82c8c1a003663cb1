"""Generates the dashboards: `python deploy/grafana/generate.py` writes
deploy/grafana/dashboards/*.json.

An argument names another directory.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from panels.build import build
from panels.lane import LANE
from panels.machine_room import MACHINE_ROOM
from panels.overview import OVERVIEW

DASHBOARDS: Final = (OVERVIEW, LANE, MACHINE_ROOM)
_DIRECTORY: Final = Path(__file__).parent / "dashboards"


def write(directory: Path) -> None:
    """Write each dashboard to `<uid>.json`."""
    for source in DASHBOARDS:
        (directory / f"{source.uid}.json").write_text(build(source), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else _DIRECTORY)
