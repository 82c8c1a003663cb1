"""Waiting on Kafka: how many records no worker has taken, by topic and partition; and the search among them."""

from __future__ import annotations

from typing import Final

import msgspec

from stream_app.board.lookup import waiting_lead
from stream_app.board.paths import leads_path, waiting_path
from stream_app.board.site import Moment, Site
from stream_app.board.waiting_leads import Search
from stream_app.client.answers import WaitingLead
from stream_app.domain.lane.explain import Finding
from stream_app.domain.lane_messages import LaneView

ROWS: Final = 100
_MOST_NAMES: Final = 10


class BacklogRow(msgspec.Struct, frozen=True):
    """The records that wait in one partition of a topic. `workspaces`: the first in it; `more`: there are others."""

    topic: str
    partition: int
    records: int
    workspaces: list[str]
    more: bool


class BacklogPage(msgspec.Struct, frozen=True):
    """What the page shows.

    Attributes:
        records: How many wait; None if Kafka does not answer.
        after: Where the next page begins; 0 if this is the last one.
    """

    records: int | None
    rows: list[BacklogRow]
    topic: str
    partition: int | None
    after: int


def backlog_page(site: Site, moment: Moment, topic: str, partition: int | None, after: int) -> BacklogPage:
    """Return the page, of a topic ('': all) and a partition (None: all). `after`: how many rows come before it."""
    if moment.kafka is None:
        return BacklogPage(None, [], topic, partition, 0)
    found = [
        (log, left)
        for log, left in sorted(moment.kafka.waiting.items())
        if left and topic in ("", log[0]) and partition in (None, log[1])
    ]
    rows: list[BacklogRow] = []
    for (name, number), left in found[after : after + ROWS]:
        names = list(site.settings.plan.residents(number))
        rows.append(BacklogRow(name, number, left, names[:_MOST_NAMES], len(names) > _MOST_NAMES))
    more = after + ROWS if len(found) > after + ROWS else 0
    return BacklogPage(sum(left for _, left in found), rows, topic, partition, more)


def behind_path(bulk: str, found: Finding, partition: int = 0, waiting: int = 0) -> str:
    """Return the path of what waits behind a finding.

    `partition` is where its lane is, `waiting` what waits there in all. `bulk`: the topic of bulk leads.
    """
    if found.code in ("replay_paused", "no_replay"):
        return leads_path(status="dead_lettered,deferred")
    if not found.workspace:
        return waiting_path()
    return waiting_path("" if found.waiting == waiting else bulk, partition)


class WaitingPage(msgspec.Struct, frozen=True):
    """The search among the records that no worker has taken."""

    leads: list[WaitingLead]
    searched: int
    left: int
    problem: str


def waiting_page(site: Site, moment: Moment, search: Search) -> WaitingPage:
    """Return the result of a search, with what blocks each record."""
    views: dict[str, LaneView | None] = {each.workspace: site.queries.lane(each.workspace) for each in search.found}
    leads = [waiting_lead(search, each, views[each.workspace], moment.now_ms) for each in search.found]
    return WaitingPage(leads, search.searched, search.left, search.problem)
