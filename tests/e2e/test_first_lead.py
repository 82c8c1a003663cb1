"""docs/routines.md, followed word by word: from an API key to the first enriched lead."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from stream_app.dev.kafka import Broker
from stream_app.dev.process import free_port
from tests.support.pace import BUSY

pytestmark = pytest.mark.timeout(400)

PAGE: Final = Path(__file__).parents[2] / "docs" / "routines.md"
PORTS: Final = (
    "worker_port",
    "replay_port",
    "board_port",
    "board_ops_port",
)


def followed(bootstrap: str, namespace: str, simulator: int) -> str:
    """Return the commands of the page.

    The virtual environment and Kafka are the test's own, and so are all ports.
    """
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    (install,) = (block for block in blocks if "python3 -m venv" in block)
    commands = "".join(block for block in blocks if block != install)
    own = [f'kafka.namespace = "{namespace}"']
    own += [f"http.{name} = {free_port()}" for name in PORTS]
    own += ['board.read_model_path = "model.sqlite"']
    for theirs, ours in (
        ("127.0.0.1:9092", bootstrap),
        ("http://127.0.0.1:8700", f"http://127.0.0.1:{simulator}"),
        ("stream-app sim", f"stream-app sim --port {simulator}"),
        # A busy machine may need more than ten seconds until all is well.
        ("stream-app doctor\n", "until stream-app doctor; do sleep 5; done\n"),
        ("kafka.replication = 1\n", "\n".join(["kafka.replication = 1", *own, ""])),
    ):
        assert commands.count(theirs) == 1, theirs
        commands = commands.replace(theirs, ours)
    return f"set -eu\ntrap 'kill $(jobs -p)' EXIT\n{commands}"


@pytest.mark.slow
def test_the_page_leads_to_enriched_leads(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
) -> None:
    script = followed(kafka.bootstrap, namespace, free_port())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=70 * BUSY,
        check=False,
    )
    logs = "".join(log.read_text()[-2_000:] for log in tmp_path.glob("*.log"))
    assert ran.returncode == 0, ran.stdout + ran.stderr + logs
    with (tmp_path / "enriched.csv").open(encoding="utf-8") as file:
        rows = {row["email"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"ada@example.com", "grace@example.com"}
    assert all("CTO" in row.values() for row in rows.values()), rows
    assert "balance" in ran.stdout
