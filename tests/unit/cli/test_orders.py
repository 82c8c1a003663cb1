"""What is typed after `stream-app lanes` is the command that is meant, and one that a worker can take."""

from typing import Any, get_args

import msgspec
import pytest

from stream_app.cli.books import show_report
from stream_app.cli.main import main
from stream_app.cli.options import Audit
from stream_app.domain.books.accounts import LaneAccount, OpenCost
from stream_app.domain.books.columns import COLUMNS, StatusCount
from stream_app.domain.books.report import Report
from stream_app.domain.lane import overrides as controls
from stream_app.domain.lane.budget import Reservation
from stream_app.domain.lane.lead_cost import LeadCost
from stream_app.domain.lane.overrides import Order
from stream_app.domain.lane_messages import CommandKind

Sent = tuple[Audit, str, str, dict[str, Any]]


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[Sent]:
    """The commands that would be sent to lanes."""
    sent: list[Sent] = []

    def order(audit: Audit, kind: str, workspace: str = "", arguments: dict[str, Any] | None = None) -> int:
        sent.append((audit, kind, workspace, arguments or {}))
        return 0

    monkeypatch.setattr("stream_app.cli.lanes.order", order)
    return sent


@pytest.mark.parametrize(
    ("typed", "order"),
    [
        ("pause acme", controls.Pause()),
        ("resume acme", controls.Resume()),
        ("trip acme", controls.Trip()),
        ("close acme", controls.Close()),
        ("shadow acme", controls.Shadow()),
        ("auto acme", controls.Auto()),
        ("reset acme", controls.Reset()),
        ("rate acme --per-second 4.5", controls.ChangeRate(rate_per_s=4.5)),
        ("rate acme --per-second configured --burst 3", controls.ChangeRate(rate_per_s="configured", burst=3)),
        ("correct acme --credits 120", controls.Correct(credits=120)),
        ("correct acme --credits -30 --actions -2 --period month", controls.Correct(-30, -2, "month")),
        ("budget acme --credits-per-day 8000", controls.ChangeBudget({"credits_per_day": 8_000})),
        (
            "budget acme --credits-per-month none --actions-per-day configured --shadow on",
            controls.ChangeBudget({"credits_per_month": None, "actions_per_day": "configured"}, shadow=True),
        ),
        ("quota acme --webhook 3f9a --retire", controls.ChangeQuota("3f9a", use=False)),
        ("quota acme --webhook 3f9a --use --count 12000", controls.ChangeQuota("3f9a", use=True, count=12_000)),
    ],
)
def test_a_command_has_the_typed_values(typed: str, order: Order, orders: list[Sent]) -> None:
    assert main(["lanes", *typed.split(), "--why", "because"]) == 0
    ((audit, kind, workspace, arguments),) = orders
    assert (workspace, audit.why) == ("acme", "because")
    assert kind in get_args(CommandKind)
    consumed: Any = msgspec.convert({**arguments, "type": kind}, Order)
    assert consumed == order


@pytest.mark.parametrize(
    ("typed", "arguments"),
    [
        ("--lead crm-17 --credits 4", {"lead_id": "crm-17", "destination": "", "credits": 4}),
        (
            "--lead crm-17 --credits 0 --actions 1 --destination people",
            {"lead_id": "crm-17", "destination": "people", "credits": 0, "actions": 1},
        ),
    ],
)
def test_the_cost_of_one_lead_has_the_typed_values(typed: str, arguments: dict[str, Any], orders: list[Sent]) -> None:
    assert main(["lanes", "correct", "acme", *typed.split(), "--why", "because"]) == 0
    assert [each[1:] for each in orders] == [("correct", "acme", arguments)]
    msgspec.convert(arguments, LeadCost)


@pytest.mark.parametrize("typed", ["--lead crm-17", "--lead crm-17 --credits -4", "--credits 4 --destination people"])
def test_a_cost_that_says_too_little_is_wrong_usage(typed: str, orders: list[Sent]) -> None:
    assert main(["lanes", "correct", "acme", *typed.split(), "--why", "because"]) == 2
    assert orders == []


@pytest.mark.parametrize("typed", ["", "--lead crm-17 --import march.csv"])
def test_a_cancellation_names_either_a_lead_or_an_import(typed: str, orders: list[Sent]) -> None:
    assert main(["lanes", "cancel", "acme", *typed.split(), "--why", "because"]) == 2
    assert main(["lanes", "cancel", "acme", "--import", "march.csv", "--why", "because"]) == 0
    assert [each[1:] for each in orders] == [("cancel_import", "acme", {"import_id": "march.csv"})]


def test_the_url_of_a_webhook_is_not_its_id(orders: list[Sent], capsys: pytest.CaptureFixture[str]) -> None:
    url = "https://api.clay.com/v3/sources/webhook/secret"
    assert main(["lanes", "quota", "acme", "--webhook", url, "--retire", "--why", "because"]) == 2
    assert "secret" not in capsys.readouterr().err
    assert orders == []


def test_the_books_name_the_leads_whose_cost_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    booked = Reservation("2026-11-24", "2026-11", 20, 5)
    report = Report(
        balanced=True,
        records=2,
        accounted=2,
        columns={name: StatusCount() for name in COLUMNS},
        statuses={},
        copies=0,
        events=4,
        outlived=0,
        moving=0,
        accounts=[LaneAccount("acme", "2026-11", "credits", 0, 0, 26, 26, 20, -5)],
        problems=[],
        problem_count=0,
        open_costs=[OpenCost("acme", "people", "crm-17", booked)],
        open_cost_count=2,
    )
    show_report(report)
    said = capsys.readouterr().out
    assert "2 leads are booked at their ceiling, not known: Clay did not say what they cost." in said
    assert "stream-app lanes correct WORKSPACE --lead ID --credits N --why TEXT" in said
    assert "  acme/people crm-17: 20 credits and 5 actions on 2026-11-24" in said
    assert "  and 1 more; --limit names more of them" in said
