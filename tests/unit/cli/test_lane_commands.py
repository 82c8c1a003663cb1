"""Each order has its command, with an option for every value that a person may enter."""

import inspect

import pytest

from stream_app.cli.lanes import app
from stream_app.domain.commands import entries
from stream_app.domain.lane.overrides import ORDERS, OrderKind


@pytest.mark.parametrize("kind", ORDERS)
def test_an_order_has_an_option_for_each_value(kind: OrderKind) -> None:
    command = app[kind].default_command
    assert command is not None
    workspace, *options, audit = inspect.signature(command).parameters
    assert workspace == "workspace"
    assert audit == "audit"
    assert [name.rstrip("_") for name in options] == [entry.name for entry in entries(kind)]
