"""A callback of an erased lead keeps no fields, unless the lead was sent again since, or the read model is behind."""

from __future__ import annotations

import asyncio
from pathlib import Path
from unittest.mock import patch

import msgspec
import pytest

from stream_app.board import erased_leads
from stream_app.board.erased_leads import ErasedLeads
from stream_app.board.read_model.follow import ProjectionLag
from stream_app.board.read_model.query import Queries
from stream_app.board.read_model.store import ReadModel
from stream_app.domain.lead.suppression import Suppression, erased_row
from stream_app.domain.topics import TopicNames
from tests.board.model_records import DAY_MS, NOW_MS, Made, event, history, take

NAMES = TopicNames("")
ERASED = Made(
    NAMES.state,
    erased_row("acme", "crm-1"),
    msgspec.json.encode(Suppression("erased", NOW_MS + 100, "c1", "ada")),
)


def forgotten(path: Path, *, at_ms: int = NOW_MS + 500, as_of_ms: int | None = None, lead: str = "crm-1") -> bool:
    lag = ProjectionLag(at_ms if as_of_ms is None else as_of_ms)
    erased = ErasedLeads(Queries(path, set()), lambda: lag, 90)
    with patch.object(erased_leads, "_WITHIN_S", 0.0):
        return asyncio.run(erased.is_forgotten("acme", lead, at_ms))


def test_an_erased_lead_is_forgotten(model: ReadModel, path: Path) -> None:
    take(model, *history(NAMES, "crm-1", "received", "sending", "accepted"))
    assert not forgotten(path)
    take(model, ERASED)
    assert forgotten(path)
    assert not forgotten(path, lead="crm-2")
    take(model, Made(NAMES.state, ERASED.key, None))
    assert not forgotten(path)


def test_a_lead_that_was_sent_again_after_its_erasure_is_not(model: ReadModel, path: Path) -> None:
    take(model, ERASED, *history(NAMES, "crm-1", "received", "sending", offset=1, at_ms=NOW_MS + 101))
    assert not forgotten(path)


@pytest.mark.parametrize("status", ["erased", "duplicate", "suppressed", "callback_unmatched", "cost_corrected"])
def test_other_events_after_the_erasure_are_no_new_lead(model: ReadModel, path: Path, status: str) -> None:
    take(model, *history(NAMES, "crm-1", "received", "sending"), ERASED)
    take(model, event(NAMES, "crm-1", status, 1, origin="leads.commands/0/7", at_ms=NOW_MS + 101))  # type: ignore[arg-type]
    take(model, event(NAMES, "crm-1", "sending", 4, at_ms=NOW_MS + 102))
    assert forgotten(path), "its history began before the erasure"


def test_a_read_model_that_is_behind_may_not_know_of_a_new_lead(model: ReadModel, path: Path) -> None:
    take(model, ERASED)
    assert not forgotten(path, as_of_ms=NOW_MS + 499)
    assert not forgotten(path, as_of_ms=0)


def test_histories_that_were_swept_may_have_begun_after_an_old_erasure(model: ReadModel, path: Path) -> None:
    take(model, ERASED)
    assert not forgotten(path, at_ms=NOW_MS + 101 + 90 * DAY_MS)


def test_the_answer_comes_as_soon_as_the_read_model_is_up_to_date(model: ReadModel, path: Path) -> None:
    take(model, ERASED)
    standings = iter([ProjectionLag(0), ProjectionLag(NOW_MS + 500)])
    erased = ErasedLeads(Queries(path, set()), lambda: next(standings), 90)
    assert asyncio.run(erased.is_forgotten("acme", "crm-1", NOW_MS + 500))


def test_without_a_read_model_nothing_is_known(path: Path) -> None:
    assert not forgotten(path)
