"""The demo's screen, recorded: what a person at a terminal reads, and what a log elsewhere gets."""

import io
import re

import pytest
from rich.console import Console

from stream_app.cli import demo
from stream_app.cli.demo import Screen
from stream_app.dev.demo.state import DemoState
from stream_app.domain.lane_messages import LaneView
from stream_app.domain.messages import Status, StatusEvent


def state() -> DemoState:
    """Five records of six were taken; one lane waits, one is healthy."""
    seen = DemoState()
    seen.published = 6
    events: tuple[tuple[str, Status], ...] = (("a", "enriched"), ("b", "enriched"), ("c", "dead_lettered"))
    for number, (lead_id, status) in enumerate((*events, ("d", "accepted"), ("c", "replayed"), ("e", "parked"))):
        seen.on_event(StatusEvent(f"{number}", lead_id, status, 1, 0, f"leads/0/{lead_id}", "alder", "people"))
    why = "the circuit breaker is half_open"
    seen.on_lane(LaneView("alder", 0, 0, "half_open", "insufficient_data", 0, 4.5, text=why, credits_spent_day=12))
    seen.on_lane(LaneView("birch", 1, 0, "closed", "healthy", 99.5, 8, credits_spent_day=20, credits_reserved_day=40))
    return seen


def console(monkeypatch: pytest.MonkeyPatch, *, terminal: bool, width: int = 120) -> Console:
    made = Console(file=io.StringIO(), record=True, force_terminal=terminal, width=width, highlight=False)
    monkeypatch.setattr(demo, "console", lambda **_: made)
    return made


def test_a_terminal_shows_each_lane_and_where_every_record_is(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = console(monkeypatch, terminal=True)
    with Screen() as shown:
        shown.say("Clay goes down for 15 s.")
        shown.show(state())
        shown._live.refresh()
    text = screen.export_text()
    assert "Clay goes down for 15 s." in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    rows = [re.split(r"  +", line.strip()) for line in text.splitlines()]
    alder, birch = (next(row for row in rows if row[0] == name) for name in ("alder", "birch"))
    assert alder == [
        "alder",
        "half open",
        "too few calls to say",
        "4.5/s",
        "12",
        "0",
        "the circuit breaker is half open",
    ]
    assert birch == ["birch", "closed", "healthy (99.5)", "8/s", "20", "40"]
    for counted in (
        "1 on Kafka, not taken yet",
        "2 enriched",
        "1 at Clay, no answer yet",
        "1 replayed, on its way",
        "1 parked for a human",
        "1 dead letter so far",
        "1 replay so far",
    ):
        assert counted in lines, text


def test_elsewhere_it_is_a_plain_line_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, now_s = console(monkeypatch, terminal=False), 50.0
    monkeypatch.setattr(demo, "time", type("Time", (), {"monotonic": staticmethod(lambda: now_s)}))
    with Screen() as shown:
        for at_s in (50.5, 51.0, 51.9, 52.1):
            now_s = at_s
            shown.show(state())
    lines = recorded.export_text().splitlines()
    assert [line[:9] for line in lines] == ["  1.0 s  ", "  2.1 s  "]
    assert lines[0][9:] == (
        "2 of 6 enriched, 1 at Clay, 1 not taken yet; alder: breaker half_open, too few calls to say, 4.5/s, "
        "12 credits; birch: breaker closed, healthy (99.5), 8/s, 20 credits; dead letters 1, replays 1"
    )
