"""The demo's display on stderr: a live table on a terminal, elsewhere one line per second."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final, Self

from rich.console import Group
from rich.live import Live
from rich.text import Text

from stream_app.cli.base import console
from stream_app.cli.tables import Column, Table, lines_of
from stream_app.dev.demo import DemoState
from stream_app.domain.lane_messages import LaneView
from stream_app.domain.messages import Status
from stream_app.domain.text import count, wrapped

_PLAIN_EVERY_S: Final = 1.0
_COLOURS: Final = {"closed": "green", "half_open": "yellow", "open": "red"}
_WORDS: Final[dict[Status, str]] = {
    "enriched": "enriched",
    "partial": "enriched in part",
    "no_data": "answered: Clay found nothing",
    "enrich_error": "answered: Clay failed",
    "accepted": "at Clay, no answer yet",
    "callback_overdue": "at Clay, the answer is late",
    "send_uncertain": "perhaps at Clay, not sent again",
    "held_outage": "held by the outage",
    "refused": "refused, to be sent again",
    "sending": "being sent",
    "dead_lettered": "dead letter, to be replayed",
    "replayed": "replayed, on its way",
    "duplicate": "duplicate, not sent",
    "expired": "too old, not sent",
    "rejected_invalid": "invalid, rejected",
    "parked": "parked for a human",
    "replaced": "published again",
}


class Screen:
    """Shows the demo. Implements `dev.demo.Display`."""

    def __init__(self) -> None:
        self._console = console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._began_s = self._said_s = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        at, out = f"{self._elapsed_s:5.1f} s  ", self._console
        text = wrapped(line, out.width - len(at)).replace("\n", "\n" + " " * len(at)) if out.is_terminal else line
        out.print(Text.assemble((at, "dim"), (text, "bold")), soft_wrap=True)

    def show(self, state: DemoState) -> None:
        if self._console.is_terminal:
            self._live.update(Group(*_shown(state, self._console.width)))
        elif time.monotonic() - self._said_s >= _PLAIN_EVERY_S:
            self._said_s = time.monotonic()
            self._console.print(f"{self._elapsed_s:5.1f} s  {_plain(state)}", soft_wrap=True)

    @property
    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began_s


def _plain(state: DemoState) -> str:
    counts = state.status_counts
    parts = [
        f"{counts['enriched']} of {state.published} enriched, {counts['accepted']} at Clay, "
        f"{state.published - sum(counts.values())} not taken yet"
    ]
    parts += [
        f"{name}: breaker {lane.breaker}, {_health(lane)}, {lane.rate_per_s:g}/s, "
        f"{count(lane.credits_spent_day, 'credit')}"
        for name, lane in sorted(state.lanes.items())
    ]
    parts.append(f"dead letters {state.steps['dead_lettered']}, replays {state.steps['replayed']}")
    return "; ".join(parts)


def _shown(state: DemoState, width: int) -> Iterator[Text]:
    """Render the lanes, then the counts of records by status."""
    lanes, _ = lines_of(_lanes(state), width)
    yield Text(lanes[0], "bold")
    for line in lanes[1:]:
        text = Text(line)
        for phase, colour in _COLOURS.items():
            text.highlight_regex(rf"(?<!half ){phase.replace('_', ' ')}(?=  )", colour)
        yield text
    yield Text()
    yield from (Text(wrapped(line, width, hang=4)) for line in _counts(state))


def _lanes(state: DemoState) -> Table:
    table = Table(
        Column("lane"),
        Column("breaker"),
        Column("health", rank=2),
        Column("rate", rank=4, right=True),
        Column("credits spent", rank=3, right=True),
        Column("reserved", rank=5, right=True),
        Column("why it waits", rank=1, prose=True),
    )
    for name, lane in sorted(state.lanes.items()):
        table.add(
            name,
            lane.breaker.replace("_", " "),
            _health(lane),
            f"{lane.rate_per_s:g}/s",
            lane.credits_spent_day,
            lane.credits_reserved_day,
            lane.text.replace("_", " "),
        )
    return table


def _counts(state: DemoState) -> Iterator[str]:
    counts = state.status_counts
    yield f"{state.published - sum(counts.values()):4}  on Kafka, not taken yet"
    for status, words in _WORDS.items():
        if counts[status]:
            yield f"{counts[status]:4}  {words}"
    dead_letters, replays = state.steps["dead_lettered"], state.steps["replayed"]
    yield f"{dead_letters:4}  {'dead letter' if dead_letters == 1 else 'dead letters'} so far"
    yield f"{replays:4}  {'replay' if replays == 1 else 'replays'} so far"


def _health(lane: LaneView) -> str:
    return "too few calls to say" if lane.health == "insufficient_data" else f"{lane.health} ({lane.score:g})"
