"""`stream-app yield`."""

import json
from pathlib import Path

import msgspec
import pytest

from stream_app.cli import status as command
from stream_app.cli.main import main
from stream_app.cli.status import _yields_table
from stream_app.cli.tables import lines_of
from stream_app.client.results.answers import NO_YIELD, ColumnYield, YieldAnswer, yield_of
from tests.support.config import one_way

COUNTED = ColumnYield(
    "acme",
    "people",
    "work_email",
    yield_of(98, 21, 510),
    yield_of(1_904, 990, 23_661),
    NO_YIELD,
)


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "stream_app.toml"
    path.write_text(one_way(people="acme"))
    monkeypatch.setenv("STREAM_APP_CONFIG", str(path))
    return path


def answers(monkeypatch: pytest.MonkeyPatch, *rows: ColumnYield) -> None:
    answer = YieldAnswer(as_of_ms=1, lag=0, trouble="", yields=list(rows))
    monkeypatch.setattr(command, "find_yields", lambda *_: answer)


def test_windows_stand_side_by_side(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers(monkeypatch, COUNTED)
    assert main(["yield"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split("  ") != [""]
    assert "work_email" in row
    assert "21.4 % of 98" in row
    assert "52.0 % of 1,904" in row
    assert row.endswith("23.9")


def test_a_narrow_terminal_leaves_out_numbers_and_no_name() -> None:
    rows = [
        msgspec.structs.replace(COUNTED, destination=destination, column=column)
        for destination in ("acme-people-emea", "acme-firms-emea")
        for column in ("work_email", "mobile_phone")
    ]
    lines, left_out = lines_of(_yields_table(rows), 80)
    assert [line.split()[:2] for line in lines[1:]] == [
        [row.destination, row.column] for row in rows
    ]
    assert max(map(len, lines)) <= 80
    assert left_out == ["workspace", "last hour", "credits each before"]
    assert "52.0 % of 1,904" in lines[1]
    assert lines[1].endswith("23.9")


def test_json_has_the_numbers_and_their_ratios(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers(monkeypatch, COUNTED)
    assert main(["yield", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["yields"]
    assert row["hour"] == {
        "answered": 98,
        "filled": 21,
        "credits": 510,
        "share": 0.2143,
        "credits_each": 24.29,
    }
    assert row["before"]["share"] is None


def test_without_a_column_it_says_how_to_name_one(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers(monkeypatch)
    assert main(["yield"]) == 0
    assert 'set yield = ["work_email"]' in capsys.readouterr().err
