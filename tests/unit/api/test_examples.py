"""The examples without a broker: their configuration, and their help."""

import runpy
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
    assert f'"{own["board"]["url"].removeprefix("http://")}:9107"' in compose


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_example_has_help_and_is_on_the_page(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.syspath_prepend(EXAMPLES)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out
    assert f"../examples/{script}" in (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")
