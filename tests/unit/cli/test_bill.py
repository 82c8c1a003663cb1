"""`stream-app books --clay`."""

import json
from pathlib import Path

import pytest

from stream_app.cli import books as command
from stream_app.cli.main import main
from stream_app.client.results.answers import Bill, BillAnswer
from stream_app.domain.books.bill import billed_days
from stream_app.domain.limits.balance import Booked, Reading
from tests.support.config import one_way

BEGIN_MS = 1_796_083_200_000  # 2026-12-01 00:00 UTC
DAY_MS = 86_400_000
READINGS = [
    Reading(BEGIN_MS, 1_234_567.5),
    Reading(BEGIN_MS + DAY_MS, 1_234_500.1, Booked(68, 60, 68)),
    Reading(BEGIN_MS + DAY_MS + 3_600_000, 1_234_460.1, Booked(70, 61, 70)),
]
QUIET = Bill("acme", READINGS[1].at_ms, 1_234_500.1, billed_days(READINGS[:2]))
LOUD = Bill("acme", READINGS[2].at_ms, 1_234_460.1, billed_days(READINGS))


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "stream_app.toml"
    path.write_text(one_way(people="acme"))
    monkeypatch.setenv("STREAM_APP_CONFIG", str(path))
    return path


def answers(monkeypatch: pytest.MonkeyPatch, *bills: Bill) -> None:
    answer = BillAnswer(as_of_ms=1, lag=0, trouble="", bills=list(bills))
    monkeypatch.setattr(command, "find_bills", lambda _: answer)


def test_a_bill_that_agrees_is_told_by_day(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers(monkeypatch, QUIET)
    assert main(["books", "--clay"]) == 0
    title, _, row, left = capsys.readouterr().out.splitlines()
    assert title == "Clay's bill"
    assert row.split() == [
        *["acme", "2026-12-01", "67.4", "68", "-0.6", "60", "to", "68"],
        "agrees",
    ]
    assert left == "acme: Clay had 1,234,500.1 credits at 2026-12-02 00:00:00Z"


def test_a_balance_of_one_is_told_in_the_singular(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers(monkeypatch, Bill("acme", READINGS[0].at_ms, 1.0, []))
    assert main(["books", "--clay"]) == 0
    assert "acme: Clay had 1 credit at 2026-12-01" in capsys.readouterr().out


def test_a_drift_above_what_explains_it_is_named_and_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers(monkeypatch, LOUD)
    assert main(["books", "--clay"]) == 1
    row = capsys.readouterr().out.splitlines()[2]
    assert row.split()[:5] == ["acme", "2026-12-02", "40", "2", "+38"]
    assert "Clay took 38 credits more than the leads explain: someone else used" in row


@pytest.mark.parametrize("clay", [QUIET, LOUD])
def test_json_has_each_day(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    clay: Bill,
) -> None:
    answers(monkeypatch, clay)
    assert main(["books", "--clay", "--json"]) == (clay is LOUD)
    (bill,) = json.loads(capsys.readouterr().out)["bills"]
    assert bill["credits"] == clay.credits
    assert [day["unexplained"] for day in bill["days"]] == ([38, 0] if clay is LOUD else [0])


@pytest.mark.parametrize("bills", [(), (Bill("acme", BEGIN_MS, 10, []),)])
def test_what_cannot_be_compared_says_why(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    bills: tuple[Bill, ...],
) -> None:
    answers(monkeypatch, *bills)
    assert main(["books", "--clay"]) == 0
    printed = " ".join(capsys.readouterr().err.split())
    if bills:
        assert printed == "acme: no two readings of Clay's balance can be compared yet"
    else:
        assert "acme: no reading of Clay's balance. To have it read" in printed
        assert "Settings, Usage" in printed
