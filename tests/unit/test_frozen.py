"""What is handed on cannot be changed: code that reads a row, a view or a setting may keep it."""

import dataclasses
import importlib
import inspect
import pkgutil
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain
from typing import Any

import msgspec
import msgspec.inspect
import pytest

import stream_app
from stream_app.domain import plan as policy
from stream_app.domain.books.money import Problem
from stream_app.domain.commands import ARGUMENTS, Command, CommandAnswer
from stream_app.domain.dead_letter.causes import Filter
from stream_app.domain.dead_letter.orders import ReplayCommand, ReplayProgress
from stream_app.domain.dead_letter.replay import Came
from stream_app.domain.delivery.envelope import Envelope
from stream_app.domain.delivery.state_machine import Delivery
from stream_app.domain.delivery.suppression import Suppression
from stream_app.domain.lane.lane import Lane
from stream_app.domain.limits.meters import Forecast
from stream_app.domain.model.messages import Callback, Lead, Result, StatusEvent
from stream_app.domain.views.explain import Finding
from stream_app.domain.views.lane import LaneView

FOLDERS = ("board", "cache", "clay", "client", "domain", "gateway", "partition")
FILLED = """
board.lookup.Lookup board.read_model.account.Letter board.read_model.on_kafka.Search
board.read_model.project._Result board.replays.PlanInProgress cache.filler.CacheFiller
cache.redis.RedisCache client.books.compare._Partition client.books.compare._Run
client.publish.leads.PublishSummary
client.results.export.Export domain.books.records.KeptRecord domain.books.money.BooksReport
domain.books.records.BookEvent domain.books.records.RecordEvents domain.books.records.StatusTotals
domain.callback.body._Claim domain.dead_letter.causes.CauseGroup domain.dead_letter.causes._Named
domain.dead_letter.replay._Hold domain.dead_letter.orders.PricedPlan
domain.delivery.suppression._Named partition.rows._Dated
"""
"""Objects with a life of their own, and counts that one function fills."""


def is_frozen(kind: type[Any]) -> bool:
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_config__.frozen
    return bool(kind.__dataclass_params__.frozen)


def classes(folder: str) -> Iterator[type[Any]]:
    package = importlib.import_module(f"stream_app.{folder}")
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if kind.__module__ == module.name and (
                issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(kind)
            ):
                yield kind


@pytest.mark.parametrize("folder", FOLDERS)
def test_values_are_frozen(folder: str) -> None:
    filled = {
        f"{kind.__module__}.{kind.__name__}" for kind in classes(folder) if not is_frozen(kind)
    }
    assert filled == {
        f"{stream_app.__name__}.{name}" for name in FILLED.split() if name.startswith(folder)
    }


NOT_NOTHING = {
    "Action": "template",
    "Breaker": "phase",
    "Bucket": "latencies",
    "Callback": "attempt",
    "ColumnYieldHealth": "mean variance",
    "CommandResult": "applied",
    "Correct": "period",
    "DestinationView": "breaker",
    "Envelope": "format",
    "FormField": "kind most",
    "Finding": "holds",
    "Form": "asks_why",
    "LaneView": "bound_by mode",
    "OrderOutcome": "done",
    "Outlook": "is_short",
    "LogPosition": "last",
    "Sampling": "always ratio",
    "Settlement": "alone",
    "Step": "times",
    "StoredLead": "is_named",
    "Unreadable": "of_import",
    "Visitor": "has_session",
}
"""Fields with another default. Policies have their defaults in the reference."""


def test_a_field_that_is_not_set_says_nothing() -> None:
    fields_of = defaultdict[str, list[str]](list)
    for kind in chain(*map(classes, FOLDERS)):
        if (
            issubclass(kind, msgspec.Struct)
            and kind.__module__ != policy.__name__
            and "Policy" not in repr(kind.mro())
        ):
            for field in msgspec.structs.fields(kind):
                if field.default and not isinstance(
                    field.default,
                    msgspec.Struct | type(msgspec.NODEFAULT),
                ):
                    fields_of[kind.__name__] += [field.name]
    assert {name: " ".join(sorted(fields)) for name, fields in fields_of.items()} == NOT_NOTHING


WRITTEN = (
    *(
        Callback,
        Command,
        CommandAnswer,
        Delivery,
        Envelope,
        Finding,
        Forecast,
        Lane,
        LaneView,
        Lead,
        Problem,
    ),
    *ARGUMENTS.values(),
    *(ReplayCommand, ReplayProgress, Result, StatusEvent, Suppression, Came),
)
"""Rows, messages, and what commands print."""


def structs_in(info: object) -> Iterator[msgspec.inspect.StructType]:
    """A type and all that its values hold."""
    if isinstance(info, msgspec.inspect.StructType):
        yield info
    if isinstance(info, msgspec.inspect.Type | msgspec.inspect.Field):
        for part in msgspec.structs.astuple(info):
            yield from structs_in(part)
    elif isinstance(info, tuple):
        yield from chain(*map(structs_in, info))


def test_what_is_written_is_without_the_fields_that_say_nothing() -> None:
    for info in structs_in(msgspec.inspect.multi_type_info(WRITTEN)):
        config = info.cls.__struct_config__
        says_all = info.cls in (Filter, Delivery)
        assert config.omit_defaults is not (says_all or not info.cls.__struct_defaults__), info.cls
