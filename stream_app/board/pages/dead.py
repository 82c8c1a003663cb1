"""Dead letters by cause, with the last day of each."""

from __future__ import annotations

import shlex
from collections import defaultdict
from typing import Final, Literal
from urllib.parse import urlencode

import msgspec

from stream_app.board.charts import Stack, spark, stack
from stream_app.board.pages.replay import tone_of
from stream_app.board.site import HOUR_S, Moment, Site, Tone
from stream_app.client.answers import Cause
from stream_app.domain.dead_letter.orders import ReplayProgress

Which = Literal["dlq", "parked"]

ROWS: Final = 50
MOST_REPLAYS: Final = 10
_COLOURS: Final = ("failed", "refused", "enriched", "cache", "nodata")
"""CSS classes of the most frequent causes; the last one is for all others."""


class CauseRow(msgspec.Struct, frozen=True):
    """A cause. `share`: percent of all of them; `spark`: those of each hour of the last day, as a polyline.

    Attributes:
        last_day: Dead letters of the last day.
        command: The command that shows what sending them back costs.
        plan: The query of the page that plans to send them back.
    """

    cause: Cause
    share: float
    spark: str
    last_day: int
    command: str
    plan: str


class ReplayRow(msgspec.Struct, frozen=True):
    """A replay in the list, with the colour and shape of its state."""

    replay: ReplayProgress
    tone: Tone


class DeadPage(msgspec.Struct, frozen=True):
    """What the page shows.

    Attributes:
        dead_letters: Those of `which`; `others`: those of the other topic.
        rows: The most frequent causes; `causes`: how many there are.
        after: How many causes this page and those before it have, if there are more; else 0.
        hours: Those of the last day by cause, of this page.
        deferred: Leads that return by themselves.
        kept_days: How long Kafka keeps those of `which`.
        replays: What operators have sent back, the newest first.
    """

    which: Which
    dead_letters: int
    others: int
    rows: list[CauseRow]
    causes: int
    after: int
    hours: Stack
    workspace: str
    deferred: int
    replays: list[ReplayRow]
    kept_days: int


def dead_page(site: Site, moment: Moment, which: Which, workspace: str, after: int = 0) -> DeadPage:
    """Return the page, of one workspace or ('') of all. `after`: how many causes the pages before have."""
    queries, names = site.queries, site.settings.names
    topic, other = (names.dlq, names.parked) if which == "dlq" else (names.parked, names.dlq)
    dead_letters, causes, shown = queries.causes_after(topic, workspace or None, after, ROWS)
    begin_s = day_begin_s(moment.now_ms)
    rows: list[CauseRow] = []
    by_slot: defaultdict[int, dict[str, int]] = defaultdict(dict)
    for cause, hours in zip(shown, queries.dead_letter_hours(topic, shown, begin_s), strict=True):
        by_hour = dict(hours)
        last = [by_hour.get(begin_s + n * HOUR_S, 0) for n in range(24)]
        key = _COLOURS[min(len(rows), len(_COLOURS) - 1)]
        for at_s, count in hours:
            by_slot[at_s][key] = by_slot[at_s].get(key, 0) + count
        share = round(cause.dead_letters / dead_letters * 100, 1)
        rows.append(
            CauseRow(cause, share, spark(last), sum(last), price_command(cause, which), plan_query(site, cause, which))
        )
    named = [(key, _label(row.cause)) for key, row in zip(_COLOURS[:-1], rows, strict=False)]
    hours_chart = stack([*named, (_COLOURS[-1], "rarer causes")], by_slot, begin_s, HOUR_S, 24, 7)
    deferred = sum(each.records for each in queries.status_sums(workspace or None) if each.status == "deferred")
    others = queries.dead_letters(other, workspace or None).dead_letters
    replays = [ReplayRow(replay, tone_of(replay)) for replay in queries.replays(MOST_REPLAYS)]
    more = after + ROWS if causes > after + ROWS else 0
    kept = site.settings.topics
    days = kept.dlq_days if which == "dlq" else kept.parked_days
    return DeadPage(which, dead_letters, others, rows, causes, more, hours_chart, workspace, deferred, replays, days)


def day_begin_s(now_ms: int) -> int:
    """Return when the last day begins, epoch s: 23 full hours and the present one."""
    return now_ms // 1000 // HOUR_S * HOUR_S - 23 * HOUR_S


def _label(cause: Cause) -> str:
    where = " / ".join(filter(None, (cause.workspace, cause.destination)))
    return f"{cause.reason or 'no reason'}{f' ({where})' if where else ''}"


def plan_query(site: Site, cause: Cause, which: Which) -> str:
    """Return the query of the page that plans to send a cause back."""
    workspace = cause.workspace if cause.workspace in site.settings.workspaces else ""
    destination = cause.destination if cause.destination in site.settings.destinations else ""
    words = {"from": which, "kind": cause.kind, "reason": cause.reason}
    return urlencode(words | {"workspace": workspace, "destination": destination})


def price_command(cause: Cause, which: Which) -> str:
    """Return the command that says what sending a cause back costs; '' if no command selects it."""
    if cause.kind == "foreign":
        return ""  # the headers of another program have no reason to select by
    words = ["stream-app", "replay", "plan", "--from", which, "--disposition", cause.kind]
    for option, value in (("reason", cause.reason), ("workspace", cause.workspace), ("destination", cause.destination)):
        words += [f"--{option}", value] if value else []
    return shlex.join(words)
