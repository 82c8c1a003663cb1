"""The examples without a broker: their configuration, and their help."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from stream_app import load_settings

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(each.name for each in EXAMPLES.glob("*.py") if each.name != "connect.py")


def test_the_configuration_has_the_lanes_of_the_compose_file() -> None:
    assert load_settings(EXAMPLES / "stream_app.toml").workspaces
    own = tomllib.loads((EXAMPLES / "stream_app.toml").read_text(encoding="utf-8"))
    deployed = tomllib.loads((ROOT / "deploy" / "stream_app.toml").read_text(encoding="utf-8"))
    assert own["kafka"]["partitions"] == deployed["kafka"]["partitions"]
    for name, table in deployed["workspaces"].items():
        assert own["workspaces"][name]["partition"] == table["partition"]
    for alias, table in deployed["destinations"].items():
        assert own["destinations"][alias]["workspace"] == table["workspace"]
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert f"HOST://{own['kafka']['bootstrap']}" in compose
    assert f'"{own["gateway"]["api_url"].removeprefix("http://")}:9103"' in compose


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_example_has_help_and_is_on_the_page(script: str) -> None:
    argv = [sys.executable, str(EXAMPLES / script), "--help"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert "usage:" in done.stdout
    assert f"../examples/{script}" in (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")
