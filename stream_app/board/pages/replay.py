"""A replay that an operator ordered: its progress, what was refused and why, and what can be done with it."""

from __future__ import annotations

import re
import shlex
from typing import Final

import msgspec

from stream_app.board.site import Moment, Site, Tone
from stream_app.domain.dead_letter.causes import Filter, Source
from stream_app.domain.dead_letter.orders import PLAN_LIFE_MS, ReplayProgress, ReplayState

_TONES: Final[dict[ReplayState, Tone]] = {"running": "ok", "stopped": "warn", "done": "idle", "refused": "bad"}
_SILENT_MS: Final = 60_000
REPLAY_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class ReplayPage(msgspec.Struct, frozen=True):
    """What the page shows.

    Attributes:
        found: The progress; None if no replay process has answered.
        share: Percent of its dead letters that were sent or refused.
        command: The command line that selects the same.
        waits: A command was sent from this page and is not applied yet.
        silent: It runs, and nothing has changed for a minute.
        life_min: How long its plan may be carried out, in minutes.
    """

    id: str
    found: ReplayProgress | None
    tone: Tone
    share: float
    command: str
    waits: bool
    silent: bool
    life_min: int = PLAN_LIFE_MS // 60_000


def replay_page(site: Site, moment: Moment, replay: str, asked: str) -> ReplayPage:
    """Return the page. `asked`: the id of a command that was sent from it; '' if none."""
    found = site.queries.replay(replay)
    if found is None:
        return ReplayPage(replay, None, "idle", 0.0, "", waits=True, silent=False)
    options = options_of(found.plan.source, found.plan.filter)
    waits = bool(asked) and asked not in found.commands and found.state in ("running", "stopped")
    silent = found.state == "running" and moment.now_ms - found.updated_at_ms > _SILENT_MS
    return ReplayPage(replay, found, tone_of(found), share_of(found), f"stream-app dlq list {options}", waits, silent)


def tone_of(replay: ReplayProgress) -> Tone:
    """Return the colour and shape of a replay's state."""
    return _TONES[replay.state]


def share_of(replay: ReplayProgress) -> float:
    """Return the percent of the dead letters that were sent or refused."""
    total = replay.total or replay.plan.dead_letters
    return round(min(100.0, (replay.sent + replay.refused) / total * 100), 2) if total else 0.0


def options_of(source: Source, wanted: Filter, *, uncertain: bool = False, limit: int | None = None) -> str:
    """Return the options on the command line that select the same dead letters."""
    words = ["--from", source]
    for option, values in (
        ("--disposition", wanted.kinds),
        ("--reason", wanted.reasons),
        ("--status", wanted.statuses),
        ("--workspace", wanted.workspaces),
        ("--destination", wanted.destinations),
        ("--lead", wanted.leads),
    ):
        for value in sorted(map(str, values)):
            words += [option, value]
    words += ["--uncertain"] if uncertain else []
    words += ["--limit", str(limit)] if limit else []
    return shlex.join(words)
