"""What is handed on cannot be changed: code that reads a row, a view or a setting may keep it."""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

import stream_app

FOLDERS = ("board", "cache", "clay", "domain", "partition")
FILLED = """
board.lookup.Lookup board.read_model.account.Letter board.read_model.on_kafka.Search
board.read_model.project._Result board.replays.Plan cache.filler.CacheFiller cache.redis.RedisCache
clay.client.Webhooks domain.books.account.Kept domain.books.money.BooksReport domain.books.records.Event
domain.books.records.RecordHistory domain.books.records.StatusCount domain.callback.body._Claim
domain.dead_letter.causes.Group domain.dead_letter.causes._Named domain.dead_letter.pricing.Price
domain.dead_letter.pricing.PricedPlan domain.lead.suppression._Named partition.rows._Dated
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
            if kind.__module__ == module.name and (issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(kind)):
                yield kind


@pytest.mark.parametrize("folder", FOLDERS)
def test_values_are_frozen(folder: str) -> None:
    filled = {f"{kind.__module__}.{kind.__name__}" for kind in classes(folder) if not is_frozen(kind)}
    assert filled == {f"{stream_app.__name__}.{name}" for name in FILLED.split() if name.startswith(folder)}
