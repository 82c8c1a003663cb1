"""What people look at: imports, a lead that is not known, and lanes, one by one or again and again."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from stream_app.cli import status as command
from stream_app.cli.main import main
from stream_app.cli.options import View
from stream_app.cli.status import _unknown
from stream_app.client.answers import FoundImport, ImportsAnswer, WaitingAnswer, WaitingLead
from stream_app.client.lanes import LanesReport
from stream_app.client.lookup import LeadSearch
from stream_app.domain.lane.explain import Facts, Group, LaneFacts
from stream_app.domain.lane.view import LaneView
from stream_app.domain.model.errors import SettingsError
from tests.support.config import one_way

FIRST_MS = 1_790_000_000_000
MARCH = FoundImport(
    import_id="2026-09-21-kfdwzp",
    workspace="acme",
    first_ms=FIRST_MS,
    last_ms=FIRST_MS + 61_000,
    who="jane",
    file="leads.csv",
    rows=1_012,
    refused=12,
    published=1_000,
    columns={"enriched": 600, "parked": 15, "under_way": 85, "waiting": 300},
    credits=3_702,
)
FOREIGN = FoundImport("crm", "globex", FIRST_MS, FIRST_MS, "", "", None, None, None, {"duplicate": 2}, 0)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "stream_app.toml"
    path.write_text(one_way(people="acme", firms="beta"))
    monkeypatch.setenv("STREAM_APP_CONFIG", str(path))
    return path


def answers(monkeypatch: pytest.MonkeyPatch, *imports: FoundImport, more: bool = False) -> None:
    answer = ImportsAnswer(as_of_ms=FIRST_MS, lag=0, trouble="", imports=list(imports), more=more)
    monkeypatch.setattr(command, "find_imports", lambda *_: answer)


def test_one_import_is_shown_by_column(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(monkeypatch, MARCH)
    assert main(["imports", "2026-09-21-kfdwzp"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "2026-09-21-kfdwzp: acme, began 2026-09-21 14:13:20Z from leads.csv by jane",
        "  1,012 rows in the file, 12 refused; 1,000 leads published to acme",
        "  [##################............] 615 of 1,000 leads at rest",
        "  enriched: 600 (Clay has answered, whatever it found)",
        "  parked: 15 (waits for a person)",
        "  under way: 85 (between two steps, at Clay, or on its way back)",
        "  waiting: 300 (on Kafka, not taken yet)",
        "  3,702 credits so far; last event 2026-09-21 14:14:21Z",
    ]


def test_what_is_not_known_is_not_shown(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(monkeypatch, FOREIGN, more=True)
    assert main(["imports"]) == 0
    output = capsys.readouterr()
    assert "None" not in output.out
    assert "there are older imports" in output.err
    answers(monkeypatch)
    assert main(["imports", "april"]) == 1
    assert "no lead of import april is known" in capsys.readouterr().err


def test_an_address_is_not_sent(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["imports", "ada@example.com"]) == 2
    assert "an id with an @" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("searched", "left", "problem", "says"),
    [
        (30, 0, "", "The lead is unknown, and no record of it waits on Kafka"),
        (30, 70, "", "It may still wait on Kafka: 30 waiting records were searched, 70 were not"),
        (0, 0, "Kafka did not answer: ask again", "0 were not (Kafka did not answer: ask again)"),
    ],
)
def test_a_search_that_is_not_complete_says_so(searched: int, left: int, problem: str, says: str) -> None:
    answer = WaitingAnswer(as_of_ms=1, lag=0, trouble="", leads=[], searched=searched, left=left, problem=problem)
    assert says in _unknown(answer)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_time_that_no_calendar_has(
    options: list[str], config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    since_us = FIRST_MS * 1_000  # some producers give Kafka microseconds
    lead = WaitingLead("crm-1", "acme", "leads/0/7", since_us, 0, [])
    waiting = WaitingAnswer(as_of_ms=1, lag=0, trouble="", leads=[lead], searched=1, left=0, problem="")
    search = LeadSearch(as_of_ms=1, lag=0, trouble="", leads=[], waiting=waiting)
    monkeypatch.setattr(command, "find", lambda *_: search)
    assert main(["status", "crm-1", *options]) == 0
    assert str(since_us) in capsys.readouterr().out


@pytest.fixture
def lanes_of_two(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is seen of the lanes of two workspaces."""
    views = [LaneView(name, at, FIRST_MS, "closed", "healthy", 100.0, 8.0) for at, name in enumerate(("acme", "beta"))]
    lanes = [LaneFacts(view.workspace, view.partition, view, {"leads": 7}) for view in views]

    async def look(*_: object) -> LanesReport:
        return LanesReport(Facts(FIRST_MS, Group("Stable", 1), Group("Stable", 1), lanes), {})

    monkeypatch.setattr("stream_app.client.lanes.read_lanes", look)


@pytest.mark.parametrize("command", ["lanes", "explain"])
@pytest.mark.usefixtures("lanes_of_two")
def test_one_workspace(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command]) == 0
    output = capsys.readouterr().out
    assert ("acme" in output, "beta" in output) == (True, True)
    assert main([command, "--workspace", "beta"]) == 0
    output = capsys.readouterr().out
    assert ("acme" in output, "beta" in output) == (False, True)
    assert main([command, "--workspace", "betta"]) == 2
    assert "betta" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["lanes", "explain"])
@pytest.mark.usefixtures("lanes_of_two")
def test_it_looks_again_until_ctrl_c(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep = Mock(side_effect=[None, None, KeyboardInterrupt])
    monkeypatch.setattr("time.sleep", sleep)
    assert main([command, "--watch"]) == 0
    assert capsys.readouterr().out.count("acme") == 3


def test_a_watch_is_no_json_document() -> None:
    with pytest.raises(SettingsError, match="leave out --watch"):
        View(watch=True, json=True).repeat(lambda: 0)
