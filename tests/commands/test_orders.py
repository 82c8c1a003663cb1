"""What is typed after `stream-app lanes` is the command that is meant, and one that a worker can take."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from stream_app.cli import build_parser
from stream_app.commands.lanes import _command_of
from stream_app.core import controls
from stream_app.core.controls import Order
from stream_app.core.messages import CommandKind


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
def test_an_order_is_what_was_typed(typed: str, order: Order) -> None:
    args = build_parser().parse_args(["lanes", *typed.split(), "--why", "because"])
    kind, arguments = _command_of(args)
    assert (args.workspace, args.why) == ("acme", "because")
    assert kind in get_args(CommandKind)
    taken: Any = msgspec.convert({**arguments, "type": kind}, Order)
    assert taken == order
