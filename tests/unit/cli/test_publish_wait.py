"""`publish --wait`: what may be typed, and where leads are, for people and for machines."""

from pathlib import Path

import pytest

from stream_app.cli.main import main, parse
from stream_app.cli.publish_wait import as_json, show_wait
from stream_app.client.send import PublishedLeads
from stream_app.domain.messages import Status, StatusEvent


@pytest.mark.parametrize(
    ("typed", "wait_s", "program"),
    [
        ("leads.csv", None, "publish"),
        ("leads.csv --wait", 600, "publish --wait"),
        ("leads.csv --wait 1.5 --bulk", 1.5, "publish --bulk --wait"),
        ("--bulk leads.csv", None, "publish --bulk"),
        ("--wait leads.csv", 600, "publish --wait"),
        ("--wait 1.5 leads.csv", 1.5, "publish --wait"),
        ("--wait --bulk leads.csv", 600, "publish --bulk --wait"),
    ],
)
def test_the_seconds(typed: str, wait_s: float | None, program: str) -> None:
    _, arguments = parse(["publish", *typed.split()])
    arguments.apply_defaults()
    options = arguments.arguments["options"]
    assert options.wait_s == wait_s
    assert options.program == program


@pytest.mark.parametrize("typed", ["--wait=leads.csv x.csv", "leads.csv --wait 0", "leads.csv --wait nan"])
def test_a_bad_number_of_seconds_is_refused(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", *typed.split()]) == 2
    assert "is no number of seconds above 0" in capsys.readouterr().err


def test_a_dry_run_has_nothing_to_wait_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "leads.csv").write_text("email\na@acme.example\n")
    assert main(["publish", str(tmp_path / "leads.csv"), "--wait", "--dry-run"]) == 2
    assert "--wait: a dry run publishes nothing" in capsys.readouterr().err


def test_where_the_leads_are(capsys: pytest.CaptureFixture[str]) -> None:
    leads = PublishedLeads("leads", ())
    leads.add(0, 0, 5)
    statuses: list[Status] = ["enriched", "enriched", "accepted", "parked"]
    for at, status in enumerate(statuses):
        leads.apply(StatusEvent("x", "lead", status, 1, 0, f"leads/0/{at}"))
    assert as_json(leads) == {
        "at_rest": 3,
        "under_way": 2,
        "statuses": {"enriched": 2, "parked": 1},
        "statuses_under_way": {"accepted": 1},
        "no_event": 1,
    }
    show_wait(leads)
    assert capsys.readouterr().out.splitlines() == [
        "enriched: 2",
        "parked: 1",
        "accepted: 1, still under way",
        "not read by a worker yet: 1",
        "5 leads: 3 at rest, 2 under way; `stream-app explain` shows why lanes wait",
    ]
