"""`replay rewind` asks before it moves the group, and its numbers add up."""

import io
from collections import Counter
from pathlib import Path

import pytest

from stream_app.cli.main import main
from stream_app.domain.dead_letter.pricing import PricedPlan
from stream_app.replay.rewind import Move
from tests.unit.cli.test_options import Terminal


class Group:
    """The replay group as the command would move it."""

    def __init__(self) -> None:
        self.rewound = 0

    async def moves(self, *_: object) -> list[Move]:
        return [Move(0, 20, 2)]

    async def survey(self, *_: object, **__: object) -> tuple[PricedPlan, dict[int, set[int]]]:
        return PricedPlan(18, Counter({"goes": 8, "sent_back": 5, "same_lead": 5}), Counter(), []), {}

    async def stopped(self, *_: object) -> None: ...

    async def rewind(self, *_: object) -> None:
        self.rewound += 1


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    group = Group()
    for place, name in (
        ("stream_app.replay.rewind.moves", "moves"),
        ("stream_app.replay.rewind.check_stopped", "stopped"),
        ("stream_app.replay.rewind.rewind", "rewind"),
        ("stream_app.cli.replay.survey", "survey"),
        ("stream_app.config.kafka_access.kafka_ready", "stopped"),
    ):
        monkeypatch.setattr(place, getattr(group, name))
    return group


@pytest.fixture
def argv(tmp_path: Path) -> list[str]:
    path = tmp_path / "stream_app.toml"
    path.write_text(
        '[workspaces.acme]\n[destinations.people]\nworkspace = "acme"\nwebhooks_env = ["X"]\ncallbacks = false\n'
    )
    return ["replay", "rewind", "--to-earliest", "--config", str(path)]


def test_a_rewind_asks_and_a_no_changes_nothing(
    group: Group, argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert main(argv) == 1
    assert "set the replay group back by 18 offsets? [y/N]" in capsys.readouterr().err
    assert group.rewound == 0
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert main(argv) == 0
    assert group.rewound == 1


def test_without_a_terminal_it_needs_a_yes(
    group: Group, argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(argv) == 2
    assert "--yes" in capsys.readouterr().err
    assert main([*argv, "--dry-run"]) == 0
    assert group.rewound == 0
    assert main([*argv, "--yes"]) == 0
    assert group.rewound == 1


def test_the_counts_of_a_dry_run_add_up(group: Group, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*argv, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "18 dead letters match" in lines
    assert "  5 are more dead letters of the same leads: a lead goes once" in lines
    assert sum(int(line.split()[0]) for line in lines if line.startswith("  ")) == 18
