"""`--watch` looks again until Ctrl-C; `--workspace` shows one lane."""

from pathlib import Path

import pytest

from stream_app.cli.main import main
from stream_app.cli.options import View
from stream_app.client.lanes import LanesReport
from stream_app.domain.errors import SettingsError
from stream_app.domain.lane.explain import Facts, Group, LaneFacts
from stream_app.domain.lane_messages import LaneView

NOW_MS = 1_790_000_000_000


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two workspaces, and what is seen of their lanes."""
    path = tmp_path / "stream_app.toml"
    path.write_text(
        """
[workspaces.acme]
[workspaces.beta]
[destinations]
people = { workspace = "acme", webhooks_env = ["A"], callbacks = false }
firms = { workspace = "beta", webhooks_env = ["B"], callbacks = false }
"""
    )
    views = [LaneView(name, at, NOW_MS, "closed", "healthy", 100.0, 8.0) for at, name in enumerate(("acme", "beta"))]
    lanes = [LaneFacts(view.workspace, view.partition, view, {"leads": 7}) for view in views]

    async def look(*_: object) -> LanesReport:
        return LanesReport(Facts(NOW_MS, Group("Stable", 1), Group("Stable", 1), lanes), {})

    monkeypatch.setattr("stream_app.client.lanes.read_lanes", look)
    return str(path)


@pytest.mark.parametrize("command", ["lanes", "explain"])
def test_one_workspace(command: str, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--config", config]) == 0
    said = capsys.readouterr().out
    assert "acme" in said
    assert "beta" in said
    assert main([command, "--config", config, "--workspace", "beta"]) == 0
    said = capsys.readouterr().out
    assert "acme" not in said
    assert "beta" in said
    assert main([command, "--config", config, "--workspace", "betta"]) == 2
    assert "betta" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["lanes", "explain"])
def test_it_looks_again_until_ctrl_c(
    command: str, config: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def sleep(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    assert main([command, "--config", config, "--watch"]) == 0
    assert capsys.readouterr().out.count("acme") == 3


def test_a_watch_is_no_json_document() -> None:
    with pytest.raises(SettingsError, match="leave out --watch"):
        View(watch=True, json=True).repeat(lambda: 0)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("budget acme --credits-per-day many", "'many' is not a whole number, none or configured"),
        ("rate acme --per-second fast", "'fast' is not a number or configured"),
        ("rate acme --burst 1.5", "'1.5' is not a whole number or configured"),
    ],
)
def test_a_value_that_is_no_number_is_named_in_words(typed: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lanes", *typed.split(), "--why", "x"]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "_" not in said.splitlines()[-1]
