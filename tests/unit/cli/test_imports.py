"""What people look at: imports, and a lead that is not known."""

import json
import re
from pathlib import Path

import msgspec
import pytest

from stream_app.cli import status as command
from stream_app.cli.main import main
from stream_app.cli.status import _unknown
from stream_app.client.results.answers import (
    FoundImport,
    ImportsAnswer,
    ImportYield,
    WaitingAnswer,
    WaitingLead,
    Yield,
    yield_of,
)
from stream_app.client.results.lookup import LeadSearch
from tests.support.config import one_way

FIRST_MS = 1_790_000_000_000
COLUMNS = {"enriched": 600, "parked": 15, "under_way": 85, "waiting": 300}
MARCH = FoundImport(
    "march",
    "acme",
    FIRST_MS,
    FIRST_MS,
    "jane",
    "leads.csv",
    1_012,
    12,
    1_000,
    COLUMNS,
    3_702,
)
FOREIGN = FoundImport(
    "crm",
    "globex",
    FIRST_MS,
    FIRST_MS,
    "",
    "",
    None,
    None,
    None,
    {"duplicate": 2},
    0,
)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "stream_app.toml"
    path.write_text(one_way(people="acme"))
    monkeypatch.setenv("STREAM_APP_CONFIG", str(path))
    return path


def answers(monkeypatch: pytest.MonkeyPatch, *imports: FoundImport, more: bool = False) -> None:
    answer = ImportsAnswer(as_of_ms=FIRST_MS, lag=0, trouble="", imports=list(imports), more=more)
    monkeypatch.setattr(command, "find_imports", lambda *_: answer)


def test_one_import_is_shown_by_column(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers(monkeypatch, MARCH)
    assert main(["imports", "march"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "  1,012 rows in the file, 12 refused; 1,000 published to acme"
    assert lines[2].endswith(" 615 of 1,000 leads at rest")
    shown = ["enriched: 600", "parked: 15", "under way: 85", "waiting: 300"]
    assert [line.partition(" (")[0].strip() for line in lines[3:7]] == shown


@pytest.mark.parametrize(
    "columns",
    [{"enriched": 146, "duplicate": 4}, {"enriched": 100, "waiting": 46, "duplicate": 4}],
)
def test_rows_are_leads_and_their_duplicates(
    columns: dict[str, int],
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    counts = {"rows": 153, "refused": 3, "published": 150, "columns": columns}
    answers(monkeypatch, msgspec.structs.replace(MARCH, **counts))
    assert main(["imports", "march"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == [
        "  153 rows in the file, 3 refused; 150 published to acme",
        "  150 records: 146 leads and 4 duplicates (another record of the same lead counts)",
    ]
    assert sum("duplicate" in line for line in lines) == 1
    assert main(["imports"]) == 0
    titles, cells = (re.split("  +", line.strip()) for line in capsys.readouterr().out.splitlines())
    assert titles[3:7] == ["rows", "refused", "duplicates", "leads"]
    assert cells[3:7] == ["153", "3", "4", "146"]
    assert main(["imports", "march", "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["imports"]
    assert shown["rows"] - shown["refused"] == sum(shown["columns"].values())
    assert shown["columns"]["duplicate"] == 4


@pytest.mark.parametrize(
    ("counted", "says"),
    [
        (yield_of(40, 20, 20), "50.0 % of 40 answers, 1 credit each"),
        (yield_of(40, 10, 104), "25.0 % of 40 answers, 10.4 credits each"),
        (yield_of(40, 0, 104), "0.0 % of 40 answers"),
        (yield_of(1, 1, 2), "100.0 % of 1 answer, 2 credits each"),
    ],
)
def test_what_clay_found_agrees_with_its_nouns(
    counted: Yield,
    says: str,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    of_emails = ImportYield("people", "work_email", counted)
    answers(monkeypatch, msgspec.structs.replace(MARCH, yields=[of_emails]))
    assert main(["imports", "march"]) == 0
    assert f"  work_email of people: {says}" in capsys.readouterr().out.splitlines()


def test_columns_of_a_newer_version_are_shown_so_that_the_leads_add_up(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    columns = {
        "set_aside": 3,
        "waiting": 5,
        "unknown": 2,
        "enriched": 1_090,
        "asked_again": 4,
        "parked": 0,
    }
    answers(monkeypatch, msgspec.structs.replace(MARCH, columns=columns))
    assert main(["imports", "march"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].endswith(" 1,099 of 1,104 leads at rest")
    assert lines[3:-1] == [
        "  enriched: 1,090 (Clay has answered, whatever it found)",
        "  waiting: 5 (on Kafka, not taken yet)",
        "  asked again: 4 (a status of a newer version)",
        "  set aside: 3 (a status of a newer version)",
        "  unknown: 2 (a status of a newer version)",
    ]


def test_what_is_not_known_is_not_shown(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
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
def test_a_search_that_is_not_complete_says_so(
    searched: int,
    left: int,
    problem: str,
    says: str,
) -> None:
    answer = WaitingAnswer(
        as_of_ms=1,
        lag=0,
        trouble="",
        leads=[],
        searched=searched,
        left=left,
        problem=problem,
    )
    assert says in _unknown(answer)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_time_that_no_calendar_has(
    options: list[str],
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    since_us = FIRST_MS * 1_000  # some producers give Kafka microseconds
    lead = WaitingLead("crm-1", "acme", "leads/0/7", since_us, 0, [])
    waiting = WaitingAnswer(
        as_of_ms=1,
        lag=0,
        trouble="",
        leads=[lead],
        searched=1,
        left=0,
        problem="",
    )
    search = LeadSearch(as_of_ms=1, lag=0, trouble="", leads=[], waiting=waiting)
    monkeypatch.setattr(command, "find", lambda *_: search)
    assert main(["status", "crm-1", *options]) == 0
    assert str(since_us) in capsys.readouterr().out
