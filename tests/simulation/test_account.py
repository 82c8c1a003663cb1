"""The account of the read model, against the ledger of 500 messy schedules.

The night runs 20,000.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import msgspec
import pytest

from stream_app.cli import lane_tables
from stream_app.domain.lane import holds
from stream_app.domain.views import explain
from stream_app.domain.views import lane as view
from stream_app.domain.views.explain import Finding, LaneFacts
from stream_app.domain.views.lane import LaneView, PartHold
from tests.simulation import lane_states
from tests.simulation.account import Differential, Look, looks_at, messy
from tests.simulation.account_mutants import ACCOUNT_MUTANTS
from tests.simulation.parts import THE_REST, each_part, of_part

SCHEDULES: Final = 500
HUNTED: Final = 60
KINDS: Final = {
    *("credits", "ended", "resent", "refused", "enriched"),
    *(
        f"import {column}"
        for column in (
            "enriched",
            "rejected",
            "duplicate",
            "parked",
            "held",
            "under_way",
            "waiting",
        )
    ),
    *(
        f"{topic} {state}"
        for topic in ("leads.dlq", "leads.parked")
        for state in ("open", "solved", "coming_back")
    ),
    *("leads.dlq given_up", "leads.parked given_up"),
    *("lane runs", "lane paused", "lane forced_open", "lane budget_credits_day"),
    *(
        f"lane {code}{due}"
        for code in ("breaker_open", "http_401", "no_callbacks")
        for due in ("", ", probe due")
    ),
    "lane in part destination_fails, probe due",
    *(
        f"status {status}"
        for status in (
            "enriched",
            "suppressed",
            "erased",
            "rerouted",
            "deferred",
            "expired",
            "confirmed",
        )
    ),
    *(
        "status cost_corrected",
        "books resent",
        "books credits",
        "books not known",
        "books estimated",
        "estimated",
    ),
    *("metrics resent", "metrics credits"),
    *(f"yield {kind}" for kind in ("answered", "filled", "credits")),
}
"""What the schedules must meet at least, so that equal accounts mean something."""


@each_part
def test_the_account_is_that_of_the_ledger(
    part: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    differential = Differential(tmp_path)
    with _no_collector():
        for seed in of_part(part, range(SCHEDULES)):
            difference = differential.difference(seed, looks_at(messy(seed)))
            assert not difference, f"schedule m{seed}, (expected, counted): {difference}"
    if part == THE_REST:
        with capsys.disabled():
            sys.stdout.write(differential.report())
        assert differential.met.keys() >= KINDS, KINDS - differential.met.keys()


@pytest.fixture(scope="module")
def looks() -> list[list[Look]]:
    with _no_collector():
        return [looks_at(messy(seed)) for seed in range(HUNTED)]


@pytest.mark.parametrize("name", ACCOUNT_MUTANTS)
def test_a_wrong_account_is_found_out(name: str, looks: list[list[Look]], tmp_path: Path) -> None:
    with ACCOUNT_MUTANTS[name]():
        differences = (
            Differential(tmp_path).difference(seed, looks[seed]) for seed in range(HUNTED)
        )
        assert any(differences), f"no schedule notices {name}"


@contextmanager
def _no_collector() -> Iterator[None]:
    """Each run is a heap of cycles, which takes half of the time to collect."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _ends_with_its_time(
    code: str,
    until_ms: int,
    now_ms: int,
    *,
    probe_due: bool = False,
) -> holds.Remains | None:
    """Each hold is over once its time has passed, also one that a probe lifts."""
    if 0 < until_ms <= now_ms:
        return None
    return holds.Remains(until_ms, probe_due)


def _as_published(seen: LaneView, now_ms: int) -> LaneView:
    """A place that shows what was published, and does not ask what is left of it."""
    return seen


def _as_the_whole(part: PartHold, lane: LaneFacts, view: LaneView) -> Finding:
    """A finding that does not say that it holds only some leads of its lane."""
    return msgspec.structs.replace(_IN_PART(part, lane, view), what=part.says)


_IN_PART: Final = explain._in_part


@pytest.mark.parametrize(
    "wrong",
    [
        patch.object(view, "remains", _ends_with_its_time),
        patch.object(LaneView, "at", _as_published),
        patch.object(lane_states, "explain", lambda facts: []),
        patch.object(explain, "_in_part", _as_the_whole),
        patch.object(lane_tables, "_held_in_part", lambda view: "running"),
    ],
    ids=[
        "a probe that is due is no hold",
        "nobody looks at the time",
        "explain finds nothing",
        "a part is told as the whole lane",
        "a command does not tell the parts",
    ],
)
def test_a_lane_that_is_told_wrongly_is_found_out(
    wrong: Any,
    looks: list[list[Look]],
    tmp_path: Path,
) -> None:
    with wrong:
        differences = [
            Differential(tmp_path).difference(seed, looks[seed]) for seed in range(HUNTED)
        ]
    assert any(name[0] == "lane" for difference in differences for name in difference)
